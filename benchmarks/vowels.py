"""A task for models with random weights: the reward is the share of vowels among the letters."""

from __future__ import annotations

from tinyzero.tasks.countdown import question
from tinyzero.types import Problem, Prompt, Reward, Split


class Vowels:
    """Rewards any text by the share of vowels among its letters."""

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(
            id=str(index),
            fields={"numbers": [index % 97 + 3, 5, 7], "target": 24},
            split=split,
            key=str(index),
        )

    def prompt(self, problem: Problem, template: str) -> Prompt:
        return question.prompt(problem.fields["numbers"], problem.fields["target"], template)

    def reward(self, problem: Problem, text: str) -> Reward:
        letters = [c for c in text.lower() if c.isalpha()]
        share = sum(c in "aeiou" for c in letters) / len(letters) if letters else 0.0
        return Reward(share, {"answer": share})

    def solution(self, problem: Problem) -> str:
        return "aeiou"
