"""Reward functions that were written for TRL or verl, as tasks to check.

The problems are the rows of a data file. The answer's form is not known, so the usual ones are
tried. `tinyzero.tasks.functions` calls the function.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyzero.errors import UserError
from tinyzero.tasks.base import Task
from tinyzero.tasks.check.wrapping import USUAL
from tinyzero.tasks.functions import SignedFunction
from tinyzero.tasks.rows import layouts
from tinyzero.tasks.tables import read_rows
from tinyzero.types import Problem, Prompt, Reward, Split


class RewardFunction(Task):
    """The reward function called `name` as a task; its problems are the rows of the file `data`.

    A row has its question in the column prompt, question, problem, input or instruction, and the
    expected answer in ground_truth, answer, solution, target or label, or in verl's reward_model.

    Raises UserError if the signature is neither TRL's nor verl's, or if a row lacks a column that
    the function needs.

    Example: `RewardFunction(accuracy, "accuracy", "prompts.jsonl")`.
    """

    stop = ()

    def __init__(self, function: Callable[..., Any], name: str, data: str | Path) -> None:
        super().__init__()
        self.function = SignedFunction(function, name)
        self.rows = {row.location: row.values for row in read_rows(data)}
        for location, row in self.rows.items():
            self._check_row(row, location)
        self._solved: dict[str, tuple[str, float]] = {}

    def size(self, split: Split) -> int:
        """The number of rows, which are all in the split "train"."""
        return len(self.rows) if split == "train" else 0

    def problem(self, split: Split, index: int) -> Problem:
        """The row at `index`; the first row follows the last one."""
        location = list(self.rows)[index % len(self.rows)]
        return Problem(location, self.rows[location], split, location)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The row's own prompt, with any template."""
        prompt: Prompt = problem.fields[_column(problem.fields, layouts.QUESTIONS)]
        return prompt

    def reward(self, problem: Problem, text: str) -> Reward:
        """The function's reward. A text is right if it earns as much as the row's own answer."""
        value = self._value(problem.fields, text)
        _, full = self._solve(problem)
        return Reward(value, right=value >= full)

    def solution(self, problem: Problem) -> str:
        """The row's answer in the usual wrapping that earns most.

        Raises UserError if the function rewards it in no wrapping.
        """
        text, full = self._solve(problem)
        if full == float("inf"):
            raise UserError(
                f"{self.function.name} rewards the answer {text!r:.60} in none of the usual formats"
            )
        return text

    def _solve(self, problem: Problem) -> tuple[str, float]:
        """The completion with the row's answer that earns most, and what it earns.

        The value is infinite if no such completion earns more than an empty text.
        """
        if problem.id not in self._solved:
            answers = _answer_texts(problem.fields)
            texts = [wrapping.around(answer) for answer in answers for wrapping in USUAL]
            values = [self._value(problem.fields, text) for text in texts]
            best = max(values)
            worthless = max(self._value(problem.fields, text) for text in ("", "no idea"))

            if best > worthless:
                self._solved[problem.id] = texts[values.index(best)], best
            else:
                self._solved[problem.id] = answers[0], float("inf")
        return self._solved[problem.id]

    def _value(self, row: Mapping[str, Any], text: str) -> float:
        """The function's reward for one completion."""
        prompt = row[_column(row, layouts.QUESTIONS)]
        value, _ = self.function.call(row, prompt, _expected_answer(row), text)
        return value

    def _check_row(self, row: Mapping[str, Any], location: str) -> None:
        """Raise UserError if the row lacks the prompt, the answer, or a needed column."""
        if not _column(row, layouts.QUESTIONS):
            raise UserError(
                f"{location}: no column prompt (nor {', '.join(layouts.QUESTIONS[1:])})"
            )
        if _expected_answer(row) is None:
            raise UserError(
                f"{location}: no column with the answer: one of {', '.join(layouts.ANSWERS)}"
            )
        if name := self.function.missing_column(row):
            raise UserError(f"{location}: no column {name}, which {self.function.name} needs")


def _column(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these columns that has a value in the row, or ""."""
    return next((name for name in names if row.get(name) is not None), "")


def _expected_answer(row: Mapping[str, Any]) -> Any:
    """The expected answer as it is in the row, or None."""
    model = row.get("reward_model")
    if isinstance(model, Mapping) and model.get("ground_truth") is not None:
        return model["ground_truth"]
    name = _column(row, layouts.ANSWERS)
    return row[name] if name else None


def _answer_texts(row: Mapping[str, Any]) -> list[str]:
    """The expected answer as text; if it is a worked solution, its final part comes first."""
    expected = _expected_answer(row)
    if isinstance(expected, list) and expected:
        expected = expected[0]
    text = expected if isinstance(expected, str) else json.dumps(expected)

    final = re.findall(r"####[ ]?([^\n]*)|\\boxed\{([^{}]*)\}|<answer>(.*?)</answer>", text)
    last_final = ["".join(groups).strip() for groups in final[-1:]]
    return [*last_final, text]
