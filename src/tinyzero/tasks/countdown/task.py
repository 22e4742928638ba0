"""Countdown: reach the target with every given number exactly once, using + - * /.

Problems are drawn, never stored: `problem(split, index)` is a pure function of its arguments. The
numbers are drawn together with a random derivation over positive integers, whose result is the
target, so every problem has a solution. The sorted numbers alone decide the split, so training
never sees a test problem with its numbers reordered or with another target. Problems can also be
read from a file in the public layout: see `CountdownOptions.data`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.errors import UserError
from tinyzero.tasks.base import DataSeed, Event, Task
from tinyzero.tasks.countdown import data as countdown_data
from tinyzero.tasks.countdown import display, question, thinking
from tinyzero.tasks.countdown import solver as countdown_solver
from tinyzero.tasks.countdown.grading import expression_reward
from tinyzero.tasks.prompts import require_template
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000


class CountdownOptions(BaseModel):
    """Which problems are drawn, and what a wrong answer earns."""

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
        description="largest intermediate result of the derivation that a problem is drawn from",
    )
    operators: str = Field(
        default="+-*/", description="the operators that may be used, out of +-*/"
    )
    format_reward: float = Field(
        default=0.1, ge=0, lt=1, description="reward for a wrong answer that is an expression"
    )
    answer_only: bool = Field(
        default=False,
        description="the completion is the expression alone, without <think> and <answer>: for the "
        "prompt template instruct-short",
    )
    data_seed: DataSeed = 0
    data: str | None = Field(
        default=None,
        description="read the problems from this parquet or JSONL file or hub dataset, with "
        "columns target and nums, instead of drawing them",
    )
    data_split: Literal["keys", "tinyzero"] = Field(
        default="keys",
        description="how the rows of `data` are split: 'keys' by hashed numbers, so that nothing "
        "leaks; 'tinyzero' takes the first 327,680 rows for train and the next 1,024 for test and "
        "dev, which leaks reordered numbers",
    )

    @model_validator(mode="after")
    def _ranges_make_sense(self) -> CountdownOptions:
        for name in ("count", "number", "target"):
            lowest = getattr(self, f"min_{name}")
            highest = getattr(self, f"max_{name}")
            if lowest > highest:
                raise ValueError(
                    f"min_{name} {lowest} is above max_{name} {highest}: "
                    "lower the first or raise the second"
                )

        if not self.operators or set(self.operators) - set("+-*/"):
            raise ValueError(f"operators {self.operators!r} must be some of + - * /")
        return self


def key_of(numbers: Iterable[int]) -> str:
    """The key of a problem: its sorted numbers. No key is in two splits.

    >>> key_of([12, 3, 5])
    '3,5,12'
    """
    return ",".join(map(str, sorted(numbers)))


def split_of(numbers: Iterable[int]) -> Split:
    """The split that these numbers belong to, whatever the source of the problem."""
    return split_by_key(key_of(numbers))


def combine(a: int, b: int, operator: str, limit: int = 9999) -> int | None:
    """The value of `a operator b` if it is a positive integer up to `limit`, else None.

    >>> combine(12, 4, "/"), combine(12, 5, "/"), combine(3, 5, "-")
    (3, None, None)
    """
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
    """Combine all `numbers` at random: returns a value and its expression.

    None if a step gives no positive integer, or one above `limit`: then draw again. For example,
    `derive([3, 5, 12], "+-*/", 99, rng)` may return `(24, "12*(5-3)")`.
    """
    pool = [(number, str(number)) for number in numbers]
    while len(pool) > 1:
        a, left = pool.pop(rng.randrange(len(pool)))
        b, right = pool.pop(rng.randrange(len(pool)))
        operator = rng.choice(operators)
        value = combine(a, b, operator, limit)
        if value is None:
            return None
        pool.append((value, f"({left}{operator}{right})"))

    value, expression = pool[0]
    return value, expression.removeprefix("(").removesuffix(")")


class Countdown(Task):
    """The Countdown task. By default a problem has 3 or 4 numbers up to 99, and a target up to 100.

    Example: `Countdown(CountdownOptions(max_count=3)).problem("train", 0)`.
    """

    Options = CountdownOptions
    glossary = display.GLOSSARY
    charts = display.CHARTS
    highlights = display.HIGHLIGHTS
    kinds = display.MARKS
    shortcut = display.SHORTCUT
    difficulty = ("max_count", "max_number")
    sources = ("data",)

    def __init__(self, options: CountdownOptions | None = None) -> None:
        self.options: CountdownOptions = options or CountdownOptions()
        signs = " ".join(self.options.operators)
        self.stop = () if self.options.answer_only else Task.stop
        self.rules = f"Make the target from the numbers, each used exactly once, with {signs}."

    def problem(self, split: Split, index: int) -> Problem:
        """The problem that (data_seed, split, index) draw, or row `index` of the split's rows.

        Raises UserError if no problem fits the options.
        """
        if self.options.data is not None:
            return self._problem_from_row(split, index)

        options = self.options
        rng = random.Random(f"countdown:{options.data_seed}:{split}:{index}")
        for _ in range(MAX_DRAWS):
            count = rng.randint(options.min_count, options.max_count)
            numbers = [rng.randint(options.min_number, options.max_number) for _ in range(count)]
            if split_of(numbers) != split:
                continue

            derived = derive(numbers, options.operators, options.max_intermediate, rng)
            if derived and options.min_target <= derived[0] <= options.max_target:
                return make_problem(numbers, derived[0], split)

        raise UserError(
            f"no Countdown problem of split {split!r} in {MAX_DRAWS:,} draws: widen the targets "
            f"(task.min_target {options.min_target} to task.max_target {options.max_target}), the "
            f"numbers, or task.max_intermediate ({options.max_intermediate})"
        )

    def size(self, split: Split) -> int | None:
        """The number of rows in `split` if problems come from `data`; None if they are drawn."""
        return None if self.options.data is None else len(self._rows[split])

    @cached_property
    def _rows(self) -> dict[Split, list[tuple[int, countdown_data.Row]]]:
        """The rows of each split, with their numbers in the file."""
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

    def _problem_from_row(self, split: Split, index: int) -> Problem:
        """The problem in row `index` of the split's rows; the first row follows the last one."""
        rows = self._rows[split]
        if not rows:
            raise UserError(
                f"{self.options.data} has no rows in split {split!r}: give a larger file"
            )

        number, row = rows[index % len(rows)]
        if countdown_solver.solve(row.nums, row.target, self.options.operators) is None:
            raise UserError(
                f"row {number} of {self.options.data} (target {row.target}, nums {list(row.nums)}) "
                f"has no solution with {self.options.operators}: remove it"
            )
        return make_problem(row.nums, row.target, split)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question in one of `tinyzero.tasks.prompts.TEMPLATES`.

        Raises UserError if the template asks for another form than `answer_only` rewards.
        """
        is_short = template == "instruct-short"
        if is_short and not self.options.answer_only:
            raise UserError(
                "the template instruct-short asks for the expression alone: add "
                "--task.answer_only true"
            )
        if self.options.answer_only and not is_short:
            require_template(template)
            raise UserError(
                f"task.answer_only is true, but the template {template} asks for <think> and "
                "<answer>: add --model.prompt instruct-short"
            )
        return question.prompt(problem.fields["numbers"], problem.fields["target"], template)

    def pose(self, line: str) -> Problem:
        """The problem that a person typed, such as `24 from 3 5 12`.

        Raises UserError if it is not a problem, or has no solution.
        """
        words = line.replace(",", " ").replace(" from ", " ").split()
        are_numbers = all(
            word.isascii() and word.isdigit() and 0 < int(word) <= 9999 for word in words
        )
        if not 3 <= len(words) <= 6 or not are_numbers:
            raise UserError(
                f"{line!r} is not a Countdown problem: write the target, then 2 to 5 numbers, "
                "as in 24 from 3 5 12"
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
        """The line to type for `problem`, such as `24 from 12 3 5`."""
        return f"{problem.fields['target']} from {' '.join(map(str, problem.fields['numbers']))}"

    def row(self, problem: Problem) -> dict[str, object]:
        """The problem in the public layout, with the columns `target` and `nums`."""
        return {"target": problem.fields["target"], "nums": list(problem.fields["numbers"])}

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 for the target from exactly the given numbers, `format_reward` for other expressions.

        0 for everything else.
        """
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        return expression_reward(
            text,
            numbers,
            target,
            self.options.operators,
            self.options.format_reward,
            self.options.answer_only,
        )

    def solution(self, problem: Problem) -> str:
        """A right completion, with the expression that the solver finds."""
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        expression = countdown_solver.solve(numbers, target, self.options.operators)
        if self.options.answer_only:
            return str(expression)
        return f"</think>\n<answer>{expression}</answer>"

    def measure(self, problem: Problem, text: str) -> Mapping[str, int]:
        """Counts that describe how one completion searches."""
        return thinking.measure(problem, text)

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The metrics `behaviour/*`, from the counts of many completions."""
        return thinking.summarise(measured)

    def mark(self, problem: Problem, text: str) -> list[Event]:
        """What the completion does in its thinking, in the order of the text."""
        return thinking.events(text, problem.fields)

    def describe(self, problem: Problem) -> dict[str, object]:
        """Two labels: how many `numbers`, and the `operators` needed, "+-" or "*/"."""
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        plus_minus = countdown_solver.plus_minus_suffices(numbers, target)
        return {"numbers": len(numbers), "operators": "+-" if plus_minus else "*/"}


def make_problem(numbers: Sequence[int], target: int, split: Split) -> Problem:
    """The problem with these numbers; its id is the same for every order of them.

    >>> make_problem([12, 3, 5], 24, "train").id
    '3,5,12=24'
    """
    key = key_of(numbers)
    return Problem(f"{key}={target}", {"numbers": list(numbers), "target": target}, split, key)
