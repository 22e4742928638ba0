"""A task for models that know nothing: any text earns the share of vowels among its letters."""

from __future__ import annotations

from tinyzero.tasks.countdown import question
from tinyzero.types import Problem, Prompt, Reward, Split


class Vowels:
    """Any text is an answer, worth the share of vowels among its letters."""

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
