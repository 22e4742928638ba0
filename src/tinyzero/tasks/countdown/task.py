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
from tinyzero.tasks.countdown.grading import NO_SOLUTION, expression_reward
from tinyzero.tasks.prompts import require_template
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000
MAX_PROOFS = 300  # problems that are tried before no unsolvable one seems to exist

LARGE = (25, 50, 75, 100)
SMALL = (*range(1, 11), *range(1, 11))
"""The numbers of the TV show: four large ones, and each small one twice."""


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
    tv_rules: bool = Field(
        default=False,
        description="the rules of the TV show: the numbers are any of 25, 50, 75 and 100, and two "
        "each of 1 to 10, instead of min_number to max_number; not all of them have to be used",
    )
    unsolvable: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of problems without a solution; their right answer is `no solution`",
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
        if self.unsolvable and self.max_count > 5:
            raise ValueError(
                f"unsolvable {self.unsolvable:g} needs a max_count of at most 5, not "
                f"{self.max_count}: a proof for 6 numbers takes more than a second"
            )
        if self.unsolvable and self.data is not None:
            raise ValueError("unsolvable is for problems that are drawn: leave out data")
        return self

    @property
    def without_effect(self) -> set[str]:
        """Options that change nothing, so that a run does not record them."""
        idle = {"min_number", "max_number"} if self.tv_rules else {"tv_rules"}
        return idle if self.unsolvable else idle | {"unsolvable"}


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
        self.use_all = not self.options.tv_rules
        times = "exactly" if self.use_all else "at most"
        self.rules = f"Make the target from the numbers, each used {times} once, with {signs}."

        counts = range(self.options.min_count, self.options.max_count + 1)
        self.levels = tuple(counts) if self.options.data is None else ()

    def at(self, level: int) -> Countdown:
        """The task with `level` numbers in each problem."""
        counts = {"min_count": level, "max_count": level}
        return Countdown(self.options.model_copy(update=counts))

    def problem(self, split: Split, index: int) -> Problem:
        """The problem that (data_seed, split, index) draw, or row `index` of the split's rows.

        Raises UserError if no problem fits the options.
        """
        if self.options.data is not None:
            return self._problem_from_row(split, index)

        options = self.options
        rng = random.Random(f"countdown:{options.data_seed}:{split}:{index}")
        if self._is_unsolvable(split, index):
            return self._unsolvable_problem(split, rng)

        for _ in range(MAX_DRAWS):
            numbers = self._draw_numbers(rng)
            if split_of(numbers) != split:
                continue

            used = numbers if self.use_all else rng.sample(numbers, rng.randint(2, len(numbers)))
            derived = derive(used, options.operators, options.max_intermediate, rng)
            is_given = not self.use_all and derived and derived[0] in numbers  # nothing to do
            if derived and not is_given and options.min_target <= derived[0] <= options.max_target:
                return make_problem(numbers, derived[0], split)

        raise UserError(
            f"no Countdown problem of split {split!r} in {MAX_DRAWS:,} draws: widen the targets "
            f"(task.min_target {options.min_target} to task.max_target {options.max_target}), the "
            f"numbers, or task.max_intermediate ({options.max_intermediate})"
        )

    def _draw_numbers(self, rng: random.Random) -> list[int]:
        """The numbers of a problem, as the options want them."""
        options = self.options
        count = rng.randint(options.min_count, options.max_count)
        if not options.tv_rules:
            return [rng.randint(options.min_number, options.max_number) for _ in range(count)]

        large = rng.randint(0, min(count, len(LARGE)))
        return rng.sample(LARGE, large) + rng.sample(SMALL, count - large)

    def _is_unsolvable(self, split: Split, index: int) -> bool:
        """Whether the problem at this index is one without a solution."""
        share = self.options.unsolvable
        draw = random.Random(f"countdown unsolvable:{self.options.data_seed}:{split}:{index}")
        return bool(share) and draw.random() < share

    def _unsolvable_problem(self, split: Split, rng: random.Random) -> Problem:
        """A problem that the solver proves to have no solution."""
        options, proofs = self.options, 0
        for _ in range(MAX_DRAWS):
            numbers = self._draw_numbers(rng)
            if split_of(numbers) != split:
                continue
            target = rng.randint(options.min_target, options.max_target)
            if not self._is_solvable(numbers, target):
                return make_problem(numbers, target, split)

            proofs += 1
            if proofs == MAX_PROOFS:
                break
        raise UserError(
            f"no unsolvable Countdown problem of split {split!r} in {proofs} draws: lower "
            "task.max_count, raise task.max_target, or set task.unsolvable to 0"
        )

    def _is_solvable(self, numbers: Sequence[int], target: int) -> bool:
        operators = self.options.operators
        return countdown_solver.is_solvable(numbers, target, operators, self.use_all)

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
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        can_fail = self.options.unsolvable > 0
        return question.prompt(numbers, target, template, self.use_all, can_fail)

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
        if not self.options.unsolvable and not self._is_solvable(numbers, target):
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
            self.use_all,
            may_be_unsolvable=self.options.unsolvable > 0,
        )

    def solution(self, problem: Problem) -> str:
        """A right completion, with the expression that the solver finds, or with `no solution`."""
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        expression = countdown_solver.solve(numbers, target, self.options.operators, self.use_all)
        if expression is None and self.options.unsolvable:
            expression = NO_SOLUTION
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
        """How many `numbers`, and the `operators` needed: "+-" or "*/".

        If problems may be unsolvable, there is a third label, `solvable`.
        """
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        plus_minus = countdown_solver.plus_minus_suffices(numbers, target, self.use_all)
        labels: dict[str, object] = {
            "numbers": len(numbers),
            "operators": "+-" if plus_minus else "*/",
        }
        if not self.options.unsolvable:
            return labels

        is_solvable = self._is_solvable(numbers, target)
        labels["operators"] = labels["operators"] if is_solvable else "none"
        return {**labels, "solvable": "yes" if is_solvable else "no"}


def make_problem(numbers: Sequence[int], target: int, split: Split) -> Problem:
    """The problem with these numbers; its id is the same for every order of them.

    >>> make_problem([12, 3, 5], 24, "train").id
    '3,5,12=24'
    """
    key = key_of(numbers)
    return Problem(f"{key}={target}", {"numbers": list(numbers), "target": target}, split, key)
