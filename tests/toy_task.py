"""Tasks for a random model. Without torch, so that workers that grade them start quickly."""

import os
from dataclasses import replace
from pathlib import Path

from tinyzero.types import Problem, Prompt, Reward, Split

LETTERS = {"train": "abc", "dev": "abc", "test": "abc"}


class Repeat:
    """Repeat the letter in the prompt. A random model learns it in seconds."""

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
    """Write characters that sort before "a", which a random model does half of the time."""

    def reward(self, problem: Problem, text: str) -> Reward:
        share = sum(c < "a" for c in text) / max(len(text), 1)
        return Reward(share, {"answer": float(share > 0.6)})


class Lengthening(Early):
    """A task whose third problem has the longest prompt."""

    def prompt(self, problem: Problem, template: str) -> str:
        return super().prompt(problem, template) * (3 if problem.id.endswith(":2") else 1)


class Raising(Early):
    def problem(self, split: Split, index: int) -> Problem:
        raise ValueError("no such luck")


class Exhausted(Early):
    def problem(self, split: Split, index: int) -> Problem:
        if split == "train" and index >= 9:
            raise ValueError("no more")
        return super().problem(split, index)


class Unwritable(Early):
    def problem(self, split: Split, index: int) -> Problem:
        return replace(super().problem(split, index), fields={"letter": "a", "set": {1}})


class Faulty(Early):
    def reward(self, problem: Problem, text: str) -> Reward:
        if sum(map(ord, text)) % 3 == 0:
            raise ValueError("no judge\ntoday")
        return super().reward(problem, text)


class Hopeless(Early):
    def reward(self, problem: Problem, text: str) -> Reward:
        raise ValueError("no judge\ntoday")


class Never(Early):
    """A task in which no answer is right."""

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(0.0, {"answer": 0.0})


class Wandering(Early):
    """A task whose prompt changes the working directory."""

    def prompt(self, problem: Problem, template: str) -> Prompt:
        os.chdir(Path(__file__).parent)
        return super().prompt(problem, template)


class Levelled(Early):
    """Level n asks for the n-th letter. Any digit ends an answer, so that few are cut off."""

    levels = (1, 2, 3)
    stop = tuple("0123456789")

    def __init__(self) -> None:
        self.level = 0

    def at(self, level: int) -> "Levelled":
        easier = Levelled()
        easier.level = level
        return easier

    def problem(self, split: Split, index: int) -> Problem:
        drawn = super().problem(split, index)
        if not self.level:
            return drawn
        return replace(drawn, fields={"letter": LETTERS[split][self.level - 1]})
