"""A task of several turns: guess a secret number, and hear whether it is higher or lower.

tinyzero check-task examples/guessing_game.py:GuessingGame
tinyzero train qwen2.5-0.5b --task examples/guessing_game.py:GuessingGame
"""

import random
import re
from types import MappingProxyType

from tinyzero.tasks.base import Task
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

LARGEST = 1000
GUESSES = 12
QUESTION = (
    f"I have a secret whole number from 1 to {LARGEST}. Guess it, as in <guess>7</guess>. After "
    f"each guess I say whether my number is higher or lower. You have {GUESSES} guesses."
)


class GuessingGame(Task):
    """Halving the range finds every number in ten guesses."""

    stop = ("</guess>",)
    max_turns = GUESSES
    rules = f"Guess a number from 1 to {LARGEST}."
    glossary = MappingProxyType({"reward/guesses": "Mean number of guesses."})

    def problem(self, split: Split, index: int) -> Problem:
        """Draw a secret number. The arguments alone decide, so a run can be resumed."""
        rng = random.Random(f"guess:{split}:{index}")
        while True:
            secret = rng.randint(1, LARGEST)
            key = str(secret)
            if split_by_key(key) == split:
                return Problem(key, {"secret": secret}, split, key)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """Explain the game: as a message, or as text for a base model."""
        if template.startswith("instruct"):
            return [{"role": "user", "content": QUESTION}]
        return f"User: {QUESTION}\nAssistant: "

    def episode(self, problem: Problem) -> "Game":
        """Begin a game. All completions of a group guess the same number."""
        return Game(problem.fields["secret"])

    def solution(self, problem: Problem) -> list[str]:
        """Halve the range until the number is found: one text per guess."""
        low, high = 1, LARGEST
        guesses: list[int] = []
        while not guesses or guesses[-1] != problem.fields["secret"]:
            guess = (low + high) // 2
            guesses.append(guess)
            if guess < problem.fields["secret"]:
                low = guess + 1
            else:
                high = guess - 1
        return [f"<guess>{guess}</guess>" for guess in guesses]


class Game:
    """One game. It hears what the model says, and judges only that."""

    def __init__(self, secret: int) -> None:
        self.secret = secret
        self.guesses = 0
        self.won = False

    def step(self, said: str) -> str | None:
        """Compare a guess with the secret. None ends the game."""
        self.guesses += 1
        guess = re.search(r"<guess>\s*([0-9]{1,4})\s*</guess>\Z", said.rstrip(), re.ASCII)
        if guess is None:
            return "\nPlease write a number, as in <guess>7</guess>.\n"

        self.won = int(guess[1]) == self.secret
        if self.won:
            return None
        return "\nhigher\n" if int(guess[1]) < self.secret else "\nlower\n"

    def reward(self) -> Reward:
        """1 for the right number, after at most GUESSES guesses."""
        return Reward(float(self.won), {"guesses": float(self.guesses)}, right=self.won)

    def close(self) -> None:
        """Do nothing: a game holds nothing open."""
