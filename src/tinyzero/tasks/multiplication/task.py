"""Multiplication of two whole numbers.

The default draws operands as TinyZero meant to: each, independently, a quarter of the time from 0..9, a quarter
from 0..99 and half of the time from 0..999. a*b and b*a share a key, so they are never in two splits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.errors import UserError
from tinyzero.grading import number_reward
from tinyzero.tasks.base import Task
from tinyzero.tasks.multiplication import display, question, thinking
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000


class MultiplicationOptions(BaseModel):
    """What problems are drawn, and what an answer earns."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_digits: int = Field(
        default=1, ge=1, le=9, description="fewest digits of each operand; goes with max_digits"
    )
    max_digits: int | None = Field(
        default=None,
        ge=1,
        le=9,
        description="most digits of each operand, all counts equally often; default: TinyZero's mix",
    )
    format_reward: float = Field(
        default=0.1, ge=0, lt=1, description="credit for a wrong answer that is an integer"
    )
    data_seed: int = Field(
        default=0,
        ge=-(2**32),
        lt=2**32,
        description="which endless stream of problems; not the run's seed",
    )

    @model_validator(mode="after")
    def _digits_make_sense(self) -> MultiplicationOptions:
        if self.max_digits is None and self.min_digits != 1:
            raise ValueError(f"min_digits {self.min_digits} needs max_digits: give both")
        if self.max_digits is not None and self.min_digits > self.max_digits:
            raise ValueError(
                f"min_digits {self.min_digits} is above max_digits {self.max_digits}: lower one or raise the other"
            )
        return self


def key_of(a: int, b: int) -> str:
    """The key of a product, whatever the order of its operands."""
    return f"{min(a, b)}*{max(a, b)}"


def split_of(a: int, b: int) -> Split:
    """The split a*b belongs to."""
    return split_by_key(key_of(a, b))


class Multiplication(Task):
    """The task; `Multiplication()` draws TinyZero's mix of up to three digits."""

    Options = MultiplicationOptions
    glossary = display.GLOSSARY
    charts = display.CHARTS
    highlights = display.HIGHLIGHTS
    rules = "Multiply two whole numbers."

    def __init__(self, options: MultiplicationOptions | None = None) -> None:
        self.options: MultiplicationOptions = options or MultiplicationOptions()

    def problem(self, split: Split, index: int) -> Problem:
        """Drawn from (data_seed, split, index). Raises UserError where the options admit no problem in `split`."""
        rng = random.Random(f"multiplication:{self.options.data_seed}:{split}:{index}")
        for _ in range(MAX_DRAWS):
            a, b = self._operand(rng), self._operand(rng)
            key = key_of(a, b)
            if split_by_key(key) == split:
                return Problem(key, {"a": a, "b": b}, split, key)
        raise UserError(
            f"no multiplication of split {split!r} in {MAX_DRAWS:,} draws: raise task.max_digits"
        )

    def _operand(self, rng: random.Random) -> int:
        if self.options.max_digits is None:
            return rng.randint(0, rng.choice((9, 99, 999, 999)))
        digits = rng.randint(self.options.min_digits, self.options.max_digits)
        return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question under the template "compact", "chat", "base" or "instruct"."""
        return question.prompt(problem.fields["a"], problem.fields["b"], template)

    def pose(self, line: str) -> Problem:
        """A typed problem such as `47*36`. Raises UserError where it is none."""
        typed = re.fullmatch(r"\s*([0-9]{1,9})\s*[*x×]\s*([0-9]{1,9})\s*", line)
        if not typed:
            raise UserError(
                f"{line!r} is no multiplication: write two whole numbers of up to nine digits, as in 47*36"
            )
        a, b = map(int, typed.groups())
        return Problem(key_of(a, b), {"a": a, "b": b}, split_of(a, b), key_of(a, b))

    def line(self, problem: Problem) -> str:
        """What to type for `problem`."""
        return f"{problem.fields['a']}*{problem.fields['b']}"

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 for the product, `format_reward` for another integer, else 0."""
        return number_reward(
            text, problem.fields["a"] * problem.fields["b"], self.options.format_reward
        )

    def solution(self, problem: Problem) -> str:
        """A completion that scores 1."""
        return f"</think>\n<answer>{problem.fields['a'] * problem.fields['b']}</answer>"

    def measure(self, problem: Problem, text: str) -> Mapping[str, int]:
        """Counts of how one completion multiplies."""
        return thinking.measure(problem.fields["a"], problem.fields["b"], text)

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Metrics `behaviour/*`, each a ratio of sums over many completions."""
        return thinking.summarise(measured)

    def describe(self, problem: Problem) -> dict[str, object]:
        """What evaluations group by: the operands' `digits`, fewer first, as "1x3"."""
        fewer, more = sorted(len(str(problem.fields[name])) for name in "ab")
        return {"digits": f"{fewer}x{more}"}
