"""Episodes and a tool for tests. Without torch, so that workers that play them start quickly."""

import os
import random
import time
from typing import Any

from tinyzero.errors import Ungraded
from tinyzero.tasks.base import Task
from tinyzero.tasks.tools import Tool
from tinyzero.types import Problem, Prompt, Reward, Split


class Echo(Tool):
    """Answers what nobody has earned."""

    stop = ("Solve!",)

    def answer(self, text: str) -> str:
        return "<answer>1</answer>"


class Guess(Task):
    """Guess 62. The first guesses earn 0.1 each, and the right one earns the rest."""

    stop = ("!",)
    max_turns = 4

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"{split}:{index}", {"secret": 62}, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> Prompt:
        return "0-99"

    def solution(self, problem: Problem) -> list[str]:
        return ["50!", f"{problem.fields['secret']}!"]

    def episode(self, problem: Problem) -> Any:
        return Guessing(problem.fields["secret"])


class Guessing:
    def __init__(self, secret: int) -> None:
        self.secret = secret
        self.guesses: list[str] = []

    def step(self, said: str) -> str | None:
        guess = said[:-1] if said.endswith("!") else ""
        self.guesses.append(guess)
        if not (guess.isascii() and guess.isdigit() and len(guess) < 9):
            return "what? "
        if int(guess) == self.secret:
            return None
        return "higher " if int(guess) < self.secret else "lower "

    def reward(self) -> Reward:
        if self.guesses[-1] != str(self.secret):
            return Reward(0.0)
        before = [0.1] * (len(self.guesses) - 1)
        return Reward(1.0, turns=(*before, 1.0 - sum(before)))

    def close(self) -> None:
        pass


class Faulty(Guess):
    """Does what the model's first word says."""

    max_turns = 10

    def solution(self, problem: Problem) -> list[str]:
        return ["1!"]

    def episode(self, problem: Problem) -> Any:
        return FaultyEpisode()


class FaultyEpisode:
    def __init__(self) -> None:
        self.word = ""
        self.turns = 0

    def step(self, said: str) -> Any:
        self.turns += 1
        word = said.removesuffix("!")
        self.word = self.word or word
        if word == "raise":
            raise ValueError("no")
        if word == "offline":
            raise Ungraded("no network")
        if word == "hang":
            time.sleep(60)
        if word == "die":
            os._exit(1)
        replies = {"number": 5, "surrogate": "\ud800", "long": "x" * 30_000}
        if word in replies:
            return replies[word]
        if word == "random":
            return str(random.SystemRandom().random())
        is_last = word in ("1", "badreward", "shares", "badclose")
        return None if is_last else str(self.turns)

    def reward(self) -> Reward:
        turns = {"badreward": (0.5,), "shares": (0.5, 0.25, 0.25)}.get(self.word, ())
        return Reward(1.0, turns=turns)

    def close(self) -> None:
        if self.word == "badclose":
            raise OSError("cannot close")


class Silent(Guess):
    """Says nothing between the turns."""

    def episode(self, problem: Problem) -> Any:
        return SilentEpisode()


class SilentEpisode(FaultyEpisode):
    def step(self, said: str) -> str | None:
        self.turns += 1
        return None if said == "1!" else ""

    def reward(self) -> Reward:
        return Reward(1.0, turns=(*[0.1] * (self.turns - 1), 1.1 - self.turns * 0.1))


class Often(Tool):
    """Speaks after common characters, so that a random model meets it often."""

    stop = tuple("0123456789+-=abcdefgh\n")

    def answer(self, text: str) -> str:
        return "(7)" if len(text) % 2 else ""


class Letters:
    """Write characters that sort before "a"."""

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"{split}:{index}", {"i": index}, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return "abc"[problem.fields["i"] % 3] + "\n"

    def reward(self, problem: Problem, text: str) -> float:
        return sum(character < "a" for character in text) / max(len(text), 1)

    def solution(self, problem: Problem) -> str:
        return "+"
