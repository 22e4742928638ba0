"""Write tests that catch bugs in a small function: the task `write-tests`.

The function has branches, such as `x*2 if x<7 else x+9`. Most mistakes in a condition show for a
single input, so tests of random inputs rarely catch them, and tests at the boundaries do.
Functions that return the same for every input have the same key, so they are never in two splits.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.errors import UserError
from tinyzero.grading import extract_answer
from tinyzero.tasks.base import DataSeed, Event, Task
from tinyzero.tasks.prompts import require_template
from tinyzero.tasks.splits import split_by_key
from tinyzero.tasks.write_tests import behaviours, display, question
from tinyzero.tasks.write_tests.functions import (
    Function,
    compute,
    draw,
    mutants,
    read,
    smallest_suite,
)
from tinyzero.tasks.write_tests.suites import UnitTest, read_suite, suite_reward
from tinyzero.types import Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000


class WriteTestsOptions(BaseModel):
    """Which functions are drawn, and how many tests an answer may have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_conditions: int = Field(default=1, ge=1, le=3, description="fewest conditions")
    max_conditions: int = Field(default=2, ge=1, le=3, description="most conditions")
    max_input: int = Field(
        default=20, ge=9, le=99, description="largest input of a function; the smallest is 0"
    )
    max_tests: int = Field(
        default=4,
        ge=2,
        le=9,
        description="most tests in an answer; functions that need more are not drawn",
    )
    answer_only: bool = Field(
        default=False,
        description="the completion is the tests alone, without <think> and <answer>: for the "
        "prompt template instruct-short",
    )
    data_seed: DataSeed = 0

    @model_validator(mode="after")
    def _options_make_sense(self) -> WriteTestsOptions:
        if self.min_conditions > self.max_conditions:
            raise ValueError(
                f"min_conditions {self.min_conditions} is above max_conditions "
                f"{self.max_conditions}: lower the first or raise the second"
            )
        if self.max_tests <= self.max_conditions:
            raise ValueError(
                f"max_tests {self.max_tests} is too few for max_conditions {self.max_conditions}, "
                f"because every branch needs a test: use at least {self.max_conditions + 1}"
            )
        return self


def key_of(function: Function, max_input: int) -> str:
    """What the function returns for every input, so that functions with equal keys are equal.

    >>> key_of(read("4 if x<2 else x-1"), 5)
    '4,4,1,2,3,4'
    """
    return ",".join(str(compute(function, x)) for x in range(max_input + 1))


class WriteTests(Task):
    """Write tests for a function. By default it has one or two conditions, and four tests do.

    Example: `WriteTests(WriteTestsOptions(max_conditions=1)).problem("train", 0)`.
    """

    Options = WriteTestsOptions
    glossary = display.GLOSSARY
    charts = display.CHARTS
    highlights = display.HIGHLIGHTS
    kinds = display.MARKS
    difficulty = ("max_conditions", "max_input")

    def __init__(self, options: WriteTestsOptions | None = None) -> None:
        self.options: WriteTestsOptions = options or WriteTestsOptions()
        self.stop = () if self.options.answer_only else Task.stop
        self.rules = (
            f"Write at most {self.options.max_tests} tests, such as f(3)=11, that fail if any "
            "number in the function is changed by one."
        )

    def problem(self, split: Split, index: int) -> Problem:
        """The problem that (data_seed, split, index) draw.

        Raises UserError if the options allow no function in `split`.
        """
        options = self.options
        rng = random.Random(f"write-tests:{options.data_seed}:{split}:{index}")
        conditions = rng.randint(options.min_conditions, options.max_conditions)
        for _ in range(MAX_DRAWS):
            function = draw_function(rng, conditions, options)
            if function and split_by_key(key_of(function, options.max_input)) == split:
                return self._problem_of(function)

        raise UserError(
            f"no function of split {split!r} in {MAX_DRAWS:,} draws: raise task.max_tests "
            f"({options.max_tests}) or lower task.min_conditions ({options.min_conditions})"
        )

    def _problem_of(self, function: Function) -> Problem:
        key = key_of(function, self.options.max_input)
        return Problem(function.code, {"code": function.code}, split_by_key(key), key)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question in one of `tinyzero.tasks.prompts.TEMPLATES`.

        Raises UserError if the template asks for another form than `answer_only` rewards.
        """
        options = self.options
        require_template(template)
        is_short = template == "instruct-short"
        if is_short and not options.answer_only:
            raise UserError(
                "the template instruct-short asks for the tests alone: add --task.answer_only true"
            )
        if options.answer_only and not is_short:
            raise UserError(
                f"task.answer_only is true, but the template {template} asks for <think> and "
                "<answer>: add --model.prompt instruct-short"
            )
        return question.prompt(
            problem.fields["code"], options.max_input, options.max_tests, template
        )

    def pose(self, line: str) -> Problem:
        """The problem that a person typed, such as `x*2 if x<7 else x+9`.

        Raises UserError if it is not a function, or if no few tests catch all of its mutants.
        """
        function = read(line)
        if smallest_suite(function, self.options.max_input, self.options.max_tests) is None:
            raise UserError(
                f"{self.options.max_tests} tests of inputs from 0 to {self.options.max_input} "
                f"cannot catch every mutant of {function.code}: type a function with fewer "
                "conditions"
            )
        return self._problem_of(function)

    def line(self, problem: Problem) -> str:
        """The line to type for `problem`, such as `x*2 if x<7 else x+9`."""
        return str(problem.fields["code"])

    def reward(self, problem: Problem, text: str) -> Reward:
        """The share of the mutants that the tests catch; 0 if they are false or cannot be read."""
        suite = self._suite(text)
        return suite_reward(read(problem.fields["code"]), suite, self.options.max_input)

    def _suite(self, text: str) -> list[UnitTest] | None:
        """The tests in a completion, or None if they cannot be read."""
        answer = text if self.options.answer_only else extract_answer(text)
        if answer is None:
            return None
        return read_suite(answer, self.options.max_tests, self.options.max_input)

    def solution(self, problem: Problem) -> str:
        """The fewest tests that catch every mutant."""
        function = read(problem.fields["code"])
        inputs = smallest_suite(function, self.options.max_input, self.options.max_tests)
        assert inputs is not None, "problems without a solution are not drawn"

        tests = " ".join(UnitTest(x, compute(function, x)).code for x in inputs)
        return tests if self.options.answer_only else f"</think>\n<answer>{tests}</answer>"

    def nonsense(self, problem: Problem) -> list[str]:
        """True tests of every input, tests of the code's own text, and all but one good test."""
        function = read(problem.fields["code"])
        inputs = range(self.options.max_input + 1)
        every_test = [UnitTest(x, compute(function, x)).code for x in inputs]
        as_code = f"f(x)={function.code}"

        best = smallest_suite(function, self.options.max_input, self.options.max_tests) or []
        unfinished = [UnitTest(x, compute(function, x)).code for x in best[1:]]
        off_by_one = [UnitTest(x, compute(function, x) + 1).code for x in best]
        answers = [" ".join(each) for each in (every_test, unfinished, off_by_one)]
        if self.options.answer_only:
            return [*answers, as_code]
        return [f"</think>\n<answer>{answer}</answer>" for answer in (*answers, as_code)]

    def measure(self, problem: Problem, text: str) -> Mapping[str, int]:
        """Counts that describe the tests of one completion."""
        function = read(problem.fields["code"])
        return behaviours.measure(function, self._suite(text), text, self.options.max_input)

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """The metrics `behaviour/*`, from the counts of many completions."""
        return behaviours.summarise(measured)

    def mark(self, problem: Problem, text: str) -> list[Event]:
        """The tests of a completion, and which of them catch a mutant of a condition."""
        return behaviours.events(read(problem.fields["code"]), text, self.options.max_input)

    def describe(self, problem: Problem) -> dict[str, object]:
        """Two labels: the number of `conditions`, and how many `tests` it takes at least."""
        function = read(problem.fields["code"])
        suite = smallest_suite(function, self.options.max_input, self.options.max_tests)
        return {"conditions": len(function.conditions), "tests": len(suite or [])}


def draw_function(
    rng: random.Random, conditions: int, options: WriteTestsOptions
) -> Function | None:
    """A random function that a few tests can check; None if it is not one: draw again."""
    function = draw(rng, conditions, options.max_input)
    if not function:
        return None

    suite = smallest_suite(function, options.max_input, options.max_tests)
    has_boundary = any(m.in_condition for m in mutants(function, options.max_input))
    return function if suite and has_boundary else None
