"""Algorithms that are hard to please."""

from tinyzero.algorithms.grpo import GRPO
from tinyzero.types import Group


class Never(GRPO):
    """Keeps nothing."""

    def keep(self, groups: list[Group]) -> list[Group]:
        return []


class Picky(GRPO):
    """Drops every third group, so that batches are refilled and leave a surplus."""

    def keep(self, groups: list[Group]) -> list[Group]:
        return [g for g in super().keep(groups) if g[0].group % 3]
