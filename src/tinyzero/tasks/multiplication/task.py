"""Multiplication of two whole numbers.

By default operands are drawn as the original TinyZero intended: each of them from 0 to 9 a quarter
of the time, from 0 to 99 a quarter of the time, and from 0 to 999 half of the time. a*b and b*a
have the same key, so they are never in two splits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.errors import UserError
from tinyzero.grading import number_reward
from tinyzero.tasks.base import DataSeed, Task
from tinyzero.tasks.multiplication import display, question, thinking
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000


class MultiplicationOptions(BaseModel):
    """Which problems are drawn, and what a wrong answer earns."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_digits: int = Field(
        default=1, ge=1, le=9, description="fewest digits of each operand; needs max_digits too"
    )
    max_digits: int | None = Field(
        default=None,
        ge=1,
        le=9,
        description="most digits of each operand, all equally often; by default the original "
        "TinyZero's mix",
    )
    format_reward: float = Field(
        default=0.1, ge=0, lt=1, description="reward for a wrong answer that is an integer"
    )
    data_seed: DataSeed = 0

    @model_validator(mode="after")
    def _digits_make_sense(self) -> MultiplicationOptions:
        if self.max_digits is None and self.min_digits != 1:
            raise ValueError(f"min_digits {self.min_digits} needs max_digits: give both")
        if self.max_digits is not None and self.min_digits > self.max_digits:
            raise ValueError(
                f"min_digits {self.min_digits} is above max_digits {self.max_digits}: "
                "lower the first or raise the second"
            )
        return self


def key_of(a: int, b: int) -> str:
    """The key of a product, which is the same for both orders of its operands.

    >>> key_of(47, 36)
    '36*47'
    """
    return f"{min(a, b)}*{max(a, b)}"


def split_of(a: int, b: int) -> Split:
    """The split that a*b and b*a belong to."""
    return split_by_key(key_of(a, b))


class Multiplication(Task):
    """The multiplication task. By default operands have up to three digits.

    Example: `Multiplication(MultiplicationOptions(max_digits=2)).problem("train", 0)`.
    """

    Options = MultiplicationOptions
    glossary = display.GLOSSARY
    charts = display.CHARTS
    highlights = display.HIGHLIGHTS
    rules = "Multiply two whole numbers."
    difficulty = ("max_digits",)

    def __init__(self, options: MultiplicationOptions | None = None) -> None:
        self.options: MultiplicationOptions = options or MultiplicationOptions()

    def problem(self, split: Split, index: int) -> Problem:
        """The problem that (data_seed, split, index) draw.

        Raises UserError if the options allow no problem in `split`.
        """
        rng = random.Random(f"multiplication:{self.options.data_seed}:{split}:{index}")
        for _ in range(MAX_DRAWS):
            a = self._operand(rng)
            b = self._operand(rng)
            key = key_of(a, b)
            if split_by_key(key) == split:
                return Problem(key, {"a": a, "b": b}, split, key)

        raise UserError(
            f"no multiplication of split {split!r} in {MAX_DRAWS:,} draws: raise task.max_digits"
        )

    def _operand(self, rng: random.Random) -> int:
        """An operand with a random number of digits."""
        if self.options.max_digits is None:
            return rng.randint(0, rng.choice((9, 99, 999, 999)))

        digits = rng.randint(self.options.min_digits, self.options.max_digits)
        smallest = 10 ** (digits - 1) if digits > 1 else 0
        return rng.randrange(smallest, 10**digits)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question in the template "compact", "chat", "base" or "instruct"."""
        return question.prompt(problem.fields["a"], problem.fields["b"], template)

    def pose(self, line: str) -> Problem:
        """The problem that a person typed, such as `47*36`. Raises UserError if it is not one."""
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*[*x×]\s*([0-9]{1,9})\s*", line)
        if not match:
            raise UserError(
                f"{line!r} is not a multiplication: write two whole numbers of up to nine digits, "
                "as in 47*36"
            )

        a, b = map(int, match.groups())
        key = key_of(a, b)
        return Problem(key, {"a": a, "b": b}, split_of(a, b), key)

    def line(self, problem: Problem) -> str:
        """The line to type for `problem`, such as `47*36`."""
        return f"{problem.fields['a']}*{problem.fields['b']}"

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 for the product, `format_reward` for any other integer, 0 for everything else."""
        product = problem.fields["a"] * problem.fields["b"]
        return number_reward(text, product, self.options.format_reward)

    def solution(self, problem: Problem) -> str:
        """A right completion."""
        product = problem.fields["a"] * problem.fields["b"]
        return f"</think>\n<answer>{product}</answer>"

    def measure(self, problem: Problem, text: str) -> Mapping[str, int]:
        """Counts that describe how one completion multiplies."""
        return thinking.measure(problem.fields["a"], problem.fields["b"], text)

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The metrics `behaviour/*`, from the counts of many completions."""
        return thinking.summarise(measured)

    def describe(self, problem: Problem) -> dict[str, object]:
        """One label: the `digits` of the operands, the shorter operand first, such as "1x3"."""
        fewer, more = sorted(len(str(problem.fields[name])) for name in "ab")
        return {"digits": f"{fewer}x{more}"}
