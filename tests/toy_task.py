"""Tasks for a random model, and an algorithm that is hard to please."""

from tinyzero.algorithms.grpo import GRPO
from tinyzero.types import Group, Problem, Reward, Split

LETTERS = {"train": "abc", "dev": "abc", "test": "abc"}


class Repeat:
    """Say the letter asked for again and again: learnt in seconds."""

    def problem(self, split: Split, index: int) -> Problem:
        letter = LETTERS[split][index % 3]
        return Problem(f"{split}:{index}", {"letter": letter}, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{problem.fields['letter']}\n"

    def reward(self, problem: Problem, text: str) -> Reward:
        share = text.count(problem.fields["letter"]) / max(len(text), 1)
        return Reward(share, {"answer": float(share > 0.9)})

    def solution(self, problem: Problem) -> str:
        return str(problem.fields["letter"])


class Early(Repeat):
    """Say characters that come before "a": a random model does so about half of the time."""

    def reward(self, problem: Problem, text: str) -> Reward:
        share = sum(c < "a" for c in text) / max(len(text), 1)
        return Reward(share, {"answer": float(share > 0.6)})


class Never(GRPO):
    """Keeps nothing."""

    def keep(self, groups: list[Group]) -> list[Group]:
        return []


class Picky(GRPO):
    """Drops every third group, so that batches are refilled and leave a surplus."""

    def keep(self, groups: list[Group]) -> list[Group]:
        return [g for g in super().keep(groups) if g[0].group % 3]
