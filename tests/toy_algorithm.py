"""Algorithms that drop groups, for tests of refilling."""

from tinyzero.algorithms.grpo import GRPO
from tinyzero.types import Group


class Never(GRPO):
    """Drops every group."""

    def keep(self, groups: list[Group]) -> list[Group]:
        return []


class Picky(GRPO):
    """Drops every third group, so that batches are refilled and some groups are left over."""

    def keep(self, groups: list[Group]) -> list[Group]:
        return [g for g in super().keep(groups) if g[0].group % 3]
