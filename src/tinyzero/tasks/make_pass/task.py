"""The task `make-pass`: its options, its problems and its reward."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from tinyzero.errors import UserError
from tinyzero.grading.sandbox import FAILURES, Limits, Outcome, Sandbox, is_near
from tinyzero.tasks.base import Chart, DataSeed, Task
from tinyzero.tasks.make_pass import family, question, rows
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import SPLITS, Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000
MOST_INPUTS = 6  # draws per input that is wanted: some are drawn twice

MEANINGS = {
    "syntax": "is not valid Python",
    "missing": "does not define the function",
    "raised": "raises an error",
    "timeout": "takes longer than task.seconds",
    "memory": "takes more memory than task.memory",
    "output": "returns more than fits into the answer",
    "crashed": "ends its process",
}


class MakePassOptions(BaseModel):
    """Which functions are asked for, how they are tested, and what a program may use."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    data: str = Field(
        default="",
        description="JSONL file with rows in the form of HumanEval or MBPP; empty for the bundled "
        "family of functions",
    )
    examples: int = Field(
        default=4, ge=2, le=10, description="examples in the question, for the bundled family"
    )
    hidden: int = Field(
        default=20, ge=1, le=200, description="most hidden inputs, for the bundled family"
    )
    seconds: float = Field(
        default=2.0, ge=0.01, le=600, description="seconds that a program may take in total"
    )
    memory: int = Field(
        default=256, ge=16, le=65_536, description="megabytes that a program may take"
    )
    data_seed: DataSeed = 0


class MakePass(Task):
    """The task. By default functions are drawn from the bundled family.

    Example: `MakePass(MakePassOptions(examples=3)).problem("train", 0)`.
    """

    Options = MakePassOptions
    needs_sandbox = True
    sources = ("data",)
    difficulty = ("examples",)
    rules = "Write a Python function that returns the expected values."
    # The sandbox is a process, and in Python the last definition of a function counts.
    allowed_attacks = ("processes", "wrong then right")
    glossary: Mapping[str, str] = {
        "reward/answer": "Share of answers whose function returns every expected value.",
        "reward/format": "Share of answers that contain a program.",
        "reward/cases": "Mean share of the tests that a function passes.",
        **{
            f"reward/{name}": f"Share of answers whose program {meaning}."
            for name, meaning in MEANINGS.items()
        },
    }
    charts = (
        Chart(
            "Why programs fail",
            "What is wrong with the programs that do not return all values.",
            tuple((f"reward/{name}", name) for name in MEANINGS),
            form="share",
        ),
    )

    def __init__(self, options: MakePassOptions | None = None) -> None:
        self.options: MakePassOptions = options or MakePassOptions()
        self._sandbox: Sandbox | None = None
        self._rows: dict[Split, list[rows.Row]] = {split: [] for split in SPLITS}
        if self.options.data:
            for row in rows.read_rows(self.options.data):
                self._rows[split_by_key(row.key)].append(row)

    def size(self, split: Split) -> int | None:
        """The number of rows in a split; the bundled family has no limit."""
        return len(self._rows[split]) if self.options.data else None

    def problem(self, split: Split, index: int) -> Problem:
        """The problem that (data_seed, split, index) draw.

        Raises UserError if the file has no row in `split`.
        """
        if self.options.data:
            return self._row_problem(split, index)

        rng = random.Random(f"make-pass:{self.options.data_seed}:{split}:{index}")
        for _ in range(MAX_DRAWS):
            function = family.draw_function(rng)
            key = family.key_of(function)
            if split_by_key(key) != split:
                continue
            if fields := self._fields(function, rng):
                return Problem(f"{key}-{rng.getrandbits(32):08x}", fields, split, key)

        raise UserError(f"no function of split {split!r} in {MAX_DRAWS:,} draws")

    def _row_problem(self, split: Split, index: int) -> Problem:
        """The row at `index`, in an order of its own for each time that the rows are repeated."""
        in_split = self._rows[split]
        if not in_split:
            raise UserError(
                f"task.data is {self.options.data!r}, which has no problem in the split {split!r}: "
                "add rows, since about one in ten belongs to each of dev and test"
            )
        epoch, position = divmod(index, len(in_split))
        row = in_split[_order(len(in_split), f"{self.options.data_seed}:{split}:{epoch}")[position]]
        return Problem(row.id, row.fields, split, row.key)

    def _fields(self, function: family.Function, rng: random.Random) -> dict[str, object] | None:
        """The examples and the hidden tests of a function; None if they do not tell much."""
        wanted = self.options.examples + self.options.hidden
        drawn = [family.draw_input(rng, function) for _ in range(MOST_INPUTS * wanted)]
        edges = family.edge_inputs(function)
        rng.shuffle(edges)
        inputs = {repr(one): one for one in drawn[: self.options.examples] + edges + drawn}

        tests = [
            [text, family.value_of(function, one)] for text, one in list(inputs.items())[:wanted]
        ]
        examples, hidden = tests[: self.options.examples], tests[self.options.examples :]
        if len({value for _, value in examples}) < 2 or len({value for _, value in hidden}) < 2:
            return None
        return {
            "question": "",
            "function": "f",
            "starter": "",
            "examples": examples,
            "tests": tests,
            "solution": function.source,
        }

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question in one of the templates, all of which this task has."""
        return question.prompt(problem.fields, template)

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 if the function returns every expected value, else 0. Nothing in between is paid.

        Raises Ungraded if the sandbox dies.
        """
        code = question.find_code(text)
        if code is None:
            return _reward(False, 0.0, None)
        if problem.fields["function"] not in code:
            return _reward(True, 0.0, "missing")

        tests = [rows.Case(*test) for test in problem.fields["tests"]]
        starter = problem.fields["starter"]  # its imports and helpers may be needed
        source = f"{starter}\n\n{code}" if starter else code
        outcome = self._run(source, problem.fields["function"], [one.arguments for one in tests])

        passed = sum(
            value is not None and _is_right(value, test)
            for value, test in zip(outcome.values, tests, strict=True)
        )
        return _reward(True, passed / len(tests), outcome.failure)

    def solution(self, problem: Problem) -> str:
        """The reference as an answer."""
        return f"</think>\n<answer>\n{problem.fields['solution']}\n</answer>"

    def nonsense(self, problem: Problem) -> list[str]:
        """Programs that know the examples only, do nothing, raise, exit or never end."""
        name = problem.fields["function"]
        known = ", ".join(f"{text!r}: {value}" for text, value in problem.fields["examples"])
        programs = (
            f"def {name}(*x): return {{{known}}}.get(repr(list(x))[1:-1])",
            f"def {name}(*x): return x[0] if x else None",
            f"def {name}(*x): return None",
            f"def {name}(*x): raise ValueError",
            f"def {name}(*x) return",
            f"import os\n{name} = os._exit\nos._exit(0)",
            f"class {name}:\n    __init__ = lambda *x: None\n    __eq__ = lambda *x: True",
        )
        return [f"</think>\n<answer>\n{program}\n</answer>" for program in programs]

    def describe(self, problem: Problem) -> Mapping[str, object]:
        """One label for the bundled family: the `input`, which is "number", "numbers" or "text"."""
        return {} if self.options.data else {"input": problem.key.partition("-")[0]}

    def _run(self, source: str, function: str, calls: list[str]) -> Outcome:
        """Run a program in the sandbox of this process, which is started with the first one."""
        if self._sandbox is None:
            limits = Limits(seconds=self.options.seconds, memory=self.options.memory)
            self._sandbox = Sandbox(limits=limits)
        return self._sandbox.run(source, function, calls)


def _is_right(value: str, test: rows.Case) -> bool:
    """Whether a returned value is the expected one."""
    if test.tolerance is None:
        return value == test.expected
    return is_near(value, float(test.expected), test.tolerance)


def _reward(has_code: bool, cases: float, failure: str | None) -> Reward:
    """The reward for a program that passes a share of the tests, with why it fails as parts."""
    right = cases == 1 and failure is None
    parts = {"answer": float(right), "format": float(has_code), "cases": cases}
    parts |= {name: float(name == failure) for name in FAILURES}
    return Reward(float(right), parts, right)


@lru_cache(maxsize=16)
def _order(count: int, seed: str) -> list[int]:
    """The order of the rows in one epoch."""
    order = list(range(count))
    random.Random(f"make-pass:{seed}").shuffle(order)
    return order


TASK = MakePass
