"""The synthetic text that the tiny base for `write-tests` is pretrained on. No torch.

The base learns to compare, to calculate, and to follow a function to its value. It writes
well-formed tests, but chooses their inputs by habits that have nothing to do with boundaries: at
random, several in a row, or numbers that the function names. Many answers follow no input at all
and expect the value of any branch. A traced input has one line per condition that was compared, and
then its value:

    x*2 if x<7 else x+9
    <think>
    3<7 yes
    3*2=6
    12<7 no
    12+9=21
    </think>
    <answer>f(3)=6 f(12)=21</answer>

Only functions of the train split are posed.
"""

from __future__ import annotations

import random

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.tasks.corpora import END, Corpus
from tinyzero.tasks.splits import split_by_key
from tinyzero.tasks.write_tests.functions import (
    COMPARISONS,
    LARGEST_NUMBER,
    SMALLEST_NUMBER,
    Condition,
    Function,
    Value,
    compute,
)
from tinyzero.tasks.write_tests.suites import UnitTest
from tinyzero.tasks.write_tests.task import WriteTestsOptions, draw_function, key_of


class SuitesOptions(BaseModel):
    """The shares of the corpus. Posed functions that are not answered blindly are traced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_conditions: int = Field(2, ge=1, le=3, description="most conditions of a posed function")
    max_input: int = Field(20, ge=9, le=99, description="largest input of a posed function")
    max_tests: int = Field(4, ge=2, le=9, description="most tests in an answer")
    drills: float = Field(
        0.25, ge=0, le=1, description="share of documents that are pages of comparisons and sums"
    )
    blind: float = Field(
        0.4, ge=0, le=1, description="share of posed functions that are answered without tracing"
    )
    in_a_row: float = Field(
        0.2, ge=0, le=1, description="share of answers whose inputs are several numbers in a row"
    )
    named: float = Field(
        0.2, ge=0, le=1, description="share of answers whose inputs are numbers in the function"
    )

    @model_validator(mode="after")
    def _options_make_sense(self) -> SuitesOptions:
        if self.in_a_row + self.named > 1:
            raise ValueError(
                f"in_a_row {self.in_a_row} and named {self.named} add up to more than 1: lower one"
            )
        if self.max_tests <= self.max_conditions:
            raise ValueError(
                f"max_tests {self.max_tests} is too few for max_conditions {self.max_conditions}: "
                f"use at least {self.max_conditions + 1}"
            )
        return self


def document(rng: random.Random, options: SuitesOptions) -> tuple[str, str]:
    """One document: a prompt, which has no loss (empty for drills), and the rest up to END."""
    if rng.random() < options.drills:
        return "", _drill(rng, options) + END

    function = _train_function(rng, options)
    inputs = _inputs(rng, function, options)
    if rng.random() < options.blind:
        tests = [UnitTest(x, rng.choice(function.values).at(x)) for x in inputs]
        thinking = ""
    else:
        tests = [UnitTest(x, compute(function, x)) for x in inputs]
        thinking = "".join(trace(function, x) for x in inputs)

    answer = " ".join(test.code for test in tests)
    return f"{function.code}\n<think>\n", f"{thinking}</think>\n<answer>{answer}</answer>{END}"


def _drill(rng: random.Random, options: SuitesOptions) -> str:
    """A page of facts: comparisons with their verdicts, and calculations with their results."""
    lines: list[str] = []
    for _ in range(14):
        x = rng.randint(0, options.max_input)
        if rng.random() < 0.5:
            near = rng.randint(x - 2, x + 2) if rng.random() < 0.5 else rng.randint(0, 99)
            number = min(max(near, 0), options.max_input)
            lines.append(_judged(Condition(rng.choice(COMPARISONS), number), x))
        else:
            number = rng.randint(SMALLEST_NUMBER, LARGEST_NUMBER)
            lines.append(_computed(Value(rng.choice("+-*"), number), x))
    return "".join(lines)


def trace(function: Function, x: int) -> str:
    """How the input `x` goes through the function: the conditions that it meets, and its value.

    >>> from tinyzero.tasks.write_tests.functions import read
    >>> print(trace(read("x*2 if x<7 else 4 if x==9 else x+9"), 9), end="")
    9<7 no
    9==9 yes
    =4
    """
    branch = function.branch(x)
    compared = function.conditions[: branch + 1]
    judged = "".join(_judged(condition, x) for condition in compared)
    return judged + _computed(function.values[branch], x)


def _judged(condition: Condition, x: int) -> str:
    verdict = "yes" if condition.holds(x) else "no"
    return f"{x}{condition.comparison}{condition.number} {verdict}\n"


def _computed(value: Value, x: int) -> str:
    if not value.operator:
        return f"={value.number}\n"
    return f"{x}{value.operator}{value.number}={value.at(x)}\n"


def _train_function(rng: random.Random, options: SuitesOptions) -> Function:
    """A function of the train split."""
    task_options = WriteTestsOptions(
        max_conditions=options.max_conditions,
        max_input=options.max_input,
        max_tests=options.max_tests,
    )
    conditions = rng.randint(1, options.max_conditions)
    while True:
        function = draw_function(rng, conditions, task_options)
        if function and split_by_key(key_of(function, options.max_input)) == "train":
            return function


def _inputs(rng: random.Random, function: Function, options: SuitesOptions) -> list[int]:
    """The inputs of the tests in one answer, chosen by one of three habits."""
    count = rng.randint(1, options.max_tests)
    habit = rng.random()
    if habit < options.in_a_row:
        first = rng.randint(0, options.max_input - count + 1)
        return list(range(first, first + count))

    if habit < options.in_a_row + options.named:
        in_values = {value.number for value in function.values}
        in_conditions = {condition.number for condition in function.conditions}
        numbers = sorted(n for n in in_values | in_conditions if n <= options.max_input)
        return rng.sample(numbers, min(count, len(numbers)))

    return rng.sample(range(options.max_input + 1), count)


CORPUS = Corpus(
    SuitesOptions,
    document,
    knows="how to compare, to calculate, and to follow a small function, and the look of tests",
    measured_by="`tinyzero eval --task write-tests`",
)
