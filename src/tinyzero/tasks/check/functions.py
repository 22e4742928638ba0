"""Reward functions written for other trainers, as tasks: those of TRL, and verl's compute_score.

    TRL    def reward(prompts, completions, **columns) -> list[float]
    verl   def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float or {"score": float}

Which of the two it is, the names of the parameters say. The problems are the rows of a JSONL file.
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
"""Parameters that the trainer fills in; every other one is a column."""


class RewardFunction(Task):
    """A reward function of another trainer, called `name`, on the rows of the JSONL file `data`.

    Raises UserError if the signature is neither TRL's nor verl's, or a row lacks a column that the
    function needs. The expected answer is in the column ground_truth, answer, solution, target or
    label, or in verl's reward_model.
    """

    stop = ()

    def __init__(self, function: Callable[..., Any], name: str, data: str | Path) -> None:
        super().__init__()
        self.function, self.name = function, name
        self.parameters = inspect.signature(function).parameters
        self.style = _style(self.parameters, name)
        self.rows = _read(Path(data))
        for line, row in self.rows.items():
            self._check(row, f"{data}, line {line}")
        self._solved: dict[str, tuple[str, float]] = {}

    def size(self, split: Split) -> int:
        """Every row is in the split "train"."""
        return len(self.rows) if split == "train" else 0

    def problem(self, split: Split, index: int) -> Problem:
        """The row at `index`, from the first again after the last."""
        line = list(self.rows)[index % len(self.rows)]
        return Problem(f"line {line}", self.rows[line], split, f"line {line}")

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The row's own prompt, under any template."""
        prompt: Prompt = problem.fields[_column(problem.fields, PROMPTS)]
        return prompt

    def reward(self, problem: Problem, text: str) -> Reward:
        """What the function pays; right is what earns as much as the row's own answer."""
        value = self._value(problem.fields, text)
        _, full = self._solve(problem)
        return Reward(value, right=value >= full)

    def solution(self, problem: Problem) -> str:
        """The row's answer in the first usual wrapping that is paid. Raises UserError if none is."""
        text, full = self._solve(problem)
        if full == float("inf"):
            raise UserError(f"{self.name} pays the answer {text!r:.60} in no usual wrapping")
        return text

    def _solve(self, problem: Problem) -> tuple[str, float]:
        """The best paid way to give the row's answer, and what it earns: infinite if nothing is paid."""
        if problem.id not in self._solved:
            truths = _truths(problem.fields)
            texts = [w.around(truth) for truth in truths for w in USUAL]
            values = [self._value(problem.fields, text) for text in texts]
            best = max(values)
            if best > max(self._value(problem.fields, text) for text in ("", "no idea")):
                self._solved[problem.id] = texts[values.index(best)], best
            else:
                self._solved[problem.id] = truths[0], float("inf")
        return self._solved[problem.id]

    def _value(self, row: Mapping[str, Any], text: str) -> float:
        arguments = self._arguments(row, text)
        names_all = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        found = self.function(
            **{k: v for k, v in arguments.items() if names_all or k in self.parameters}
        )
        if inspect.isawaitable(found):
            found = asyncio.run(_wait(found))
        if self.style == "verl":
            found = found["score"] if isinstance(found, Mapping) else found
        else:
            (found,) = found
        return 0.0 if found is None else float(found)  # None: another function's business

    def _arguments(self, row: Mapping[str, Any], text: str) -> dict[str, Any]:
        if self.style == "verl":
            return {
                "data_source": row.get("data_source", ""),
                "solution_str": text,
                "ground_truth": _truth(row),
                "extra_info": row.get("extra_info"),
                **{k: v for k, v in row.items() if k not in GIVEN["verl"]},
            }
        prompt = row[_column(row, PROMPTS)]
        said = text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        columns = {name: [value] for name, value in row.items()}
        for name in ("log_extra", "log_metric"):
            columns[name] = _ignore  # type: ignore[assignment]
        return {**columns, "prompts": [prompt], "completions": [said], "trainer_state": None}

    def _check(self, row: Mapping[str, Any], where: str) -> None:
        """Raises UserError if the row lacks its prompt, its answer, or a column the function needs."""
        if not _column(row, PROMPTS):
            raise UserError(f"{where}: no column prompt (nor {', '.join(PROMPTS[1:])})")
        if _truth(row) is None:
            raise UserError(f"{where}: no column with the answer: one of {', '.join(ANSWERS)}")
        for name, parameter in self.parameters.items():
            needed = parameter.default is parameter.empty and parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            )
            if needed and name not in GIVEN[self.style] and name not in row:
                raise UserError(f"{where}: no column {name}, which {self.name} needs")


def _style(parameters: Mapping[str, inspect.Parameter], name: str) -> str:
    if "completions" in parameters:
        return "trl"
    if "solution_str" in parameters:
        return "verl"
    raise UserError(
        f"{name} takes {', '.join(parameters) or 'nothing'}: a reward function takes completions "
        "(TRL's signature) or solution_str (verl's)"
    )


def _read(path: Path) -> dict[int, dict[str, Any]]:
    """The rows of a JSONL file by their line, counted from 1. Raises UserError if there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    rows = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not an object with columns")
        rows[number] = row
    if not rows:
        raise UserError(f"{path} has no rows: one JSON object per line is needed")
    return rows


def _column(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if row.get(name) is not None), "")


def _truth(row: Mapping[str, Any]) -> Any:
    """The expected answer as the row has it, or None."""
    model = row.get("reward_model")
    if isinstance(model, Mapping) and model.get("ground_truth") is not None:
        return model["ground_truth"]
    name = _column(row, ANSWERS)
    return row[name] if name else None


def _truths(row: Mapping[str, Any]) -> list[str]:
    """The expected answer as text: its final part first, if it is a worked solution, then all of it."""
    truth = _truth(row)
    if isinstance(truth, list) and truth:
        truth = truth[0]
    said = truth if isinstance(truth, str) else json.dumps(truth)
    final = re.findall(r"####[ ]?([^\n]*)|\\boxed\{([^{}]*)\}|<answer>(.*?)</answer>", said)
    return ["".join(found).strip() for found in final[-1:]] + [said]


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def _ignore(*arguments: object) -> None:
    """What a reward function logs is no part of the check."""
