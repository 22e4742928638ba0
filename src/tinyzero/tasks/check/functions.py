"""Reward functions that were written for TRL or verl, as tasks.

The names of the parameters tell which of the two signatures a function has:

    # TRL
    def reward(prompts, completions, **columns) -> list[float]: ...

    # verl; the result may also be {"score": float}
    def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float: ...

The problems are the rows of a JSONL file.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyzero.errors import UserError
from tinyzero.tasks.base import Task
from tinyzero.tasks.check.wrapping import USUAL
from tinyzero.tasks.files import read_json
from tinyzero.types import Problem, Prompt, Reward, Split

PROMPTS = ("prompt", "question", "problem", "input", "instruction")
ANSWERS = ("ground_truth", "answer", "solution", "target", "label")
GIVEN = {
    "trl": {
        "prompts",
        "completions",
        "trainer_state",
        "log_extra",
        "log_metric",
        "environments",
    },
    "verl": {"data_source", "solution_str", "ground_truth", "extra_info"},
}
"""Parameters that the trainer fills in. Every other parameter is a column of the data."""


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
        self.function = function
        self.name = name
        self.parameters = inspect.signature(function).parameters
        self.style = _style(self.parameters, name)

        self.rows = _read_rows(Path(data))
        for line, row in self.rows.items():
            self._check_row(row, f"{data}, line {line}")
        self._solved: dict[str, tuple[str, float]] = {}

    def size(self, split: Split) -> int:
        """The number of rows, which are all in the split "train"."""
        return len(self.rows) if split == "train" else 0

    def problem(self, split: Split, index: int) -> Problem:
        """The row at `index`; the first row follows the last one."""
        line = list(self.rows)[index % len(self.rows)]
        name = f"line {line}"
        return Problem(name, self.rows[line], split, name)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The row's own prompt, with any template."""
        prompt: Prompt = problem.fields[_column(problem.fields, PROMPTS)]
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
                f"{self.name} rewards the answer {text!r:.60} in none of the usual formats"
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
        arguments = self._arguments(row, text)
        takes_all = any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in self.parameters.values()
        )
        if not takes_all:
            arguments = {name: arguments[name] for name in arguments if name in self.parameters}

        value = self.function(**arguments)
        if inspect.isawaitable(value):
            value = asyncio.run(_wait(value))
        if self.style == "trl":
            (value,) = value
        elif isinstance(value, Mapping):
            value = value["score"]
        return 0.0 if value is None else float(value)  # TRL's None: not for this function

    def _arguments(self, row: Mapping[str, Any], text: str) -> dict[str, Any]:
        """All that a trainer would pass for one completion, by parameter name."""
        if self.style == "verl":
            return {
                "data_source": row.get("data_source", ""),
                "solution_str": text,
                "ground_truth": _expected_answer(row),
                "extra_info": row.get("extra_info"),
                **{name: value for name, value in row.items() if name not in GIVEN["verl"]},
            }

        prompt = row[_column(row, PROMPTS)]
        is_chat = not isinstance(prompt, str)
        completion = [{"role": "assistant", "content": text}] if is_chat else text
        columns: dict[str, Any] = {name: [value] for name, value in row.items()}
        return {
            **columns,
            "log_extra": _ignore,
            "log_metric": _ignore,
            "prompts": [prompt],
            "completions": [completion],
            "trainer_state": None,
        }

    def _check_row(self, row: Mapping[str, Any], source: str) -> None:
        """Raise UserError if the row lacks the prompt, the answer, or a needed column."""
        if not _column(row, PROMPTS):
            raise UserError(f"{source}: no column prompt (nor {', '.join(PROMPTS[1:])})")
        if _expected_answer(row) is None:
            raise UserError(f"{source}: no column with the answer: one of {', '.join(ANSWERS)}")

        for name, parameter in self.parameters.items():
            is_required = parameter.default is parameter.empty and parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            )
            if is_required and name not in GIVEN[self.style] and name not in row:
                raise UserError(f"{source}: no column {name}, which {self.name} needs")


def _style(parameters: Mapping[str, inspect.Parameter], name: str) -> str:
    """The trainer whose signature this is: "trl" or "verl"."""
    if "completions" in parameters:
        return "trl"
    if "solution_str" in parameters:
        return "verl"
    raise UserError(
        f"{name} takes {', '.join(parameters) or 'nothing'}: a reward function takes completions "
        "(TRL's signature) or solution_str (verl's)"
    )


def _read_rows(path: Path) -> dict[int, dict[str, Any]]:
    """The rows of a JSONL file by line number, from 1. Raises UserError if it has no rows."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error

    rows = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = read_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not an object with columns")
        rows[number] = row

    if not rows:
        raise UserError(f"{path} has no rows: one JSON object per line is needed")
    return rows


def _column(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these columns that has a value in the row, or ""."""
    return next((name for name in names if row.get(name) is not None), "")


def _expected_answer(row: Mapping[str, Any]) -> Any:
    """The expected answer as it is in the row, or None."""
    model = row.get("reward_model")
    if isinstance(model, Mapping) and model.get("ground_truth") is not None:
        return model["ground_truth"]
    name = _column(row, ANSWERS)
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


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def _ignore(*arguments: object) -> None:
    """Discard what a reward function logs."""
