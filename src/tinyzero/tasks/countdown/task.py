"""Countdown: reach the target with every given number exactly once, using + - * /.

Problems are drawn, never stored: `problem(split, index)` is a pure function. Numbers and a random
derivation over positive integers are drawn together, so every problem is solvable by construction
(over positive integers, hence over the rationals). The sorted numbers alone, hashed with a
constant, decide the split, so no permutation and no other target of a test problem is ever trained
on. The same class reads the public dataset layout; see `CountdownOptions.data`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.errors import UserError
from tinyzero.tasks.base import Event, Task
from tinyzero.tasks.countdown import data as countdown_data
from tinyzero.tasks.countdown import display, question, thinking
from tinyzero.tasks.countdown import solver as countdown_solver
from tinyzero.tasks.countdown.grading import expression_reward
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000


class CountdownOptions(BaseModel):
    """What problems are drawn, and what an answer earns."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_count: int = Field(default=3, ge=2, le=6, description="fewest given numbers")
    max_count: int = Field(default=4, ge=2, le=6, description="most given numbers")
    min_number: int = Field(default=1, ge=1, le=9999, description="smallest given number")
    max_number: int = Field(default=99, le=9999, description="largest given number")
    min_target: int = Field(default=10, ge=1, le=99_999, description="smallest target")
    max_target: int = Field(default=100, le=99_999, description="largest target")
    max_intermediate: int = Field(
        default=9999,
        ge=1,
        le=10**9,
        description="no intermediate result of the derivation drawn is above this",
    )
    operators: str = Field(default="+-*/", description="which of + - * / may be used")
    format_reward: float = Field(
        default=0.1, ge=0, lt=1, description="credit for a wrong answer that is an expression"
    )
    data_seed: int = Field(
        default=0,
        ge=-(2**32),
        lt=2**32,
        description="which endless stream of problems; not the run's seed",
    )
    data: str | None = Field(
        default=None,
        description="read problems from this parquet or JSONL file, or hub dataset id, "
        "with columns target and nums, instead of drawing them",
    )
    data_split: Literal["keys", "tinyzero"] = Field(
        default="keys",
        description="how rows of `data` are split: by hashed numbers (nothing leaks), or TinyZero's "
        "own first 327,680 rows train, next 1,024 test (leaks permutations, and dev is test)",
    )

    @model_validator(mode="after")
    def _ranges_make_sense(self) -> CountdownOptions:
        for low, high in (
            ("min_count", "max_count"),
            ("min_number", "max_number"),
            ("min_target", "max_target"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} {getattr(self, low)} is above {high} {getattr(self, high)}: lower one or raise the other"
                )
        if not self.operators or set(self.operators) - set("+-*/"):
            raise ValueError(f"operators {self.operators!r} must be some of + - * /")
        return self


def key_of(numbers: Iterable[int]) -> str:
    """The sorted numbers as text: what must never be in two splits."""
    return ",".join(map(str, sorted(numbers)))


def split_of(numbers: Iterable[int]) -> Split:
    """The split a set of numbers belongs to, for every source of problems."""
    return split_by_key(key_of(numbers))


def combine(a: int, b: int, operator: str, limit: int = 9999) -> int | None:
    """`a operator b` where that is a positive integer no larger than `limit`, else None."""
    if operator == "+":
        value = a + b
    elif operator == "-":
        value = a - b
    elif operator == "*":
        value = a * b
    else:
        value = a // b if b and a % b == 0 else 0
    return value if 0 < value <= limit else None


def derive(
    numbers: Sequence[int], operators: str, limit: int, rng: random.Random
) -> tuple[int, str] | None:
    """A random derivation that uses all `numbers`: its value and expression, or None at a dead end."""
    pool = [(n, str(n)) for n in numbers]
    while len(pool) > 1:
        (a, left), (b, right) = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        operator = rng.choice(operators)
        value = combine(a, b, operator, limit)
        if value is None:
            return None
        pool.append((value, f"({left}{operator}{right})"))
    value, expression = pool[0]
    return value, expression.removeprefix("(").removesuffix(")")


class Countdown(Task):
    """The task; `Countdown()` draws 3 or 4 numbers from 1 to 99 and targets from 10 to 100."""

    Options = CountdownOptions
    glossary = display.GLOSSARY
    charts = display.CHARTS
    highlights = display.HIGHLIGHTS
    kinds = display.MARKS
    shortcut = display.SHORTCUT
    sources = ("data",)

    def __init__(self, options: CountdownOptions | None = None) -> None:
        self.options: CountdownOptions = options or CountdownOptions()
        signs = " ".join(self.options.operators)
        self.rules = f"Make the target from the numbers, each used exactly once, with {signs}."

    def problem(self, split: Split, index: int) -> Problem:
        """Drawn from (data_seed, split, index), or row `index` of the split's rows, from the start again
        after the last. Raises UserError where the options admit no problem."""
        if self.options.data is not None:
            return self._row(split, index)
        o = self.options
        rng = random.Random(f"countdown:{o.data_seed}:{split}:{index}")
        for _ in range(MAX_DRAWS):
            count = rng.randint(o.min_count, o.max_count)
            numbers = [rng.randint(o.min_number, o.max_number) for _ in range(count)]
            if split_of(numbers) != split:
                continue
            drawn = derive(numbers, o.operators, o.max_intermediate, rng)
            if drawn and o.min_target <= drawn[0] <= o.max_target:
                return make_problem(numbers, drawn[0], split)
        raise UserError(
            f"no Countdown problem of split {split!r} in {MAX_DRAWS:,} draws: widen task.min_target..max_target "
            f"({o.min_target}..{o.max_target}), the number range or task.max_intermediate ({o.max_intermediate})"
        )

    def size(self, split: Split) -> int | None:
        """The rows of `split` if problems are read from `data`; drawn ones have no end."""
        return None if self.options.data is None else len(self._rows[split])

    @cached_property
    def _rows(self) -> dict[Split, list[tuple[int, countdown_data.Row]]]:
        assert self.options.data is not None
        rows = list(enumerate(countdown_data.read_rows(self.options.data)))
        if self.options.data_split == "tinyzero":
            train, test = countdown_data.tinyzero_split(rows)
            return {"train": train, "dev": test, "test": test}
        by_split: dict[Split, list[tuple[int, countdown_data.Row]]] = {
            "train": [],
            "dev": [],
            "test": [],
        }
        for number, row in rows:
            by_split[split_of(row.nums)].append((number, row))
        return by_split

    def _row(self, split: Split, index: int) -> Problem:
        rows = self._rows[split]
        if not rows:
            raise UserError(
                f"{self.options.data} has no rows in split {split!r}: give a larger file"
            )
        number, row = rows[index % len(rows)]
        if countdown_solver.solve(row.nums, row.target, self.options.operators) is None:
            raise UserError(
                f"row {number} of {self.options.data} (target {row.target}, nums {list(row.nums)}) has no solution "
                f"with {self.options.operators}: remove it"
            )
        return make_problem(row.nums, row.target, split)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question under the template "compact", "chat", "base" (TinyZero's text) or "instruct"."""
        return question.prompt(problem.fields["numbers"], problem.fields["target"], template)

    def pose(self, line: str) -> Problem:
        """A typed problem such as `24 from 3 5 12`. Raises UserError where it is none, or has no solution."""
        words = line.replace(",", " ").replace(" from ", " ").split()
        if not 3 <= len(words) <= 6 or not all(
            w.isascii() and w.isdigit() and 0 < int(w) <= 9999 for w in words
        ):
            raise UserError(
                f"{line!r} is no Countdown problem: write the target, then 2 to 5 numbers, as in 24 from 3 5 12"
            )
        target, *numbers = map(int, words)
        operators = self.options.operators
        if countdown_solver.solve(numbers, target, operators) is None:
            given = ", ".join(map(str, numbers))
            raise UserError(
                f"{target} cannot be made from {given} with {operators}: try another target"
            )
        return make_problem(numbers, target, split_of(numbers))

    def line(self, problem: Problem) -> str:
        """What to type for `problem`."""
        return f"{problem.fields['target']} from {' '.join(map(str, problem.fields['numbers']))}"

    def row(self, problem: Problem) -> dict[str, object]:
        """The problem in the public layout: `target` and `nums`."""
        return {"target": problem.fields["target"], "nums": list(problem.fields["numbers"])}

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 for the target from exactly the given numbers, `format_reward` for another expression, else 0."""
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        return expression_reward(
            text, numbers, target, self.options.operators, self.options.format_reward
        )

    def solution(self, problem: Problem) -> str:
        """A completion that scores 1, found by the solver."""
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        return f"</think>\n<answer>{countdown_solver.solve(numbers, target, self.options.operators)}</answer>"

    def measure(self, problem: Problem, text: str) -> Mapping[str, int]:
        """Counts of how one completion searches."""
        return thinking.measure(problem, text)

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Metrics `behaviour/*`, each a ratio of sums over many completions."""
        return thinking.summarise(measured)

    def mark(self, problem: Problem, text: str) -> list[Event]:
        """What the completion does in its thinking, by place."""
        return thinking.events(text, problem.fields)

    def describe(self, problem: Problem) -> dict[str, object]:
        """What evaluations group by: `numbers` (how many) and `operators` ("+-" suffice, or "*/" needed)."""
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        plus_minus = countdown_solver.plus_minus_suffices(numbers, target)
        return {"numbers": len(numbers), "operators": "+-" if plus_minus else "*/"}


def make_problem(numbers: Sequence[int], target: int, split: Split) -> Problem:
    """A Problem whose id is the same for every order of `numbers`."""
    key = key_of(numbers)
    return Problem(f"{key}={target}", {"numbers": list(numbers), "target": target}, split, key)
