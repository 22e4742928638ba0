"""Calling reward functions that were written for TRL or verl.

The names of the parameters tell which of the two signatures a function has:

    # TRL
    def reward(prompts, completions, **columns) -> list[float]: ...

    # verl; the result may also be {"score": float}
    def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float: ...
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from tinyzero.errors import UserError
from tinyzero.types import Prompt

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


class SignedFunction:
    """A reward function called `name`, with TRL's or verl's signature.

    Raises UserError if the signature is neither.

    Example: `SignedFunction(accuracy, "accuracy").call(row, "What is 2+3?", "5", "It is 5.")`.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self.parameters = inspect.signature(function).parameters
        self.style = _style(self.parameters, name)
        self.takes_all = any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in self.parameters.values()
        )

    def missing_column(self, row: Mapping[str, Any]) -> str:
        """The first column that the function needs and the row lacks, or ""."""
        for name, parameter in self.parameters.items():
            is_required = parameter.default is parameter.empty and parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            )
            if is_required and name not in GIVEN[self.style] and name not in row:
                return name
        return ""

    def call(
        self, row: Mapping[str, Any], prompt: Prompt, expected: Any, text: str
    ) -> tuple[float, Mapping[str, Any]]:
        """The function's reward for one completion, and all that it returned by name, if anything.

        `expected` is the row's answer. None of a TRL function (not for this row) is worth 0.
        """
        arguments = self._arguments(row, prompt, expected, text)
        if not self.takes_all:
            arguments = {name: arguments[name] for name in arguments if name in self.parameters}

        value = self.function(**arguments)
        if inspect.isawaitable(value):
            value = asyncio.run(_wait(value))
        if self.style == "trl":
            (value,) = value
        named: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        value = named["score"] if named else value
        return (0.0 if value is None else float(value)), named

    def _arguments(
        self, row: Mapping[str, Any], prompt: Prompt, expected: Any, text: str
    ) -> dict[str, Any]:
        """All that a trainer would pass for one completion, by parameter name."""
        if self.style == "verl":
            return {
                "data_source": row.get("data_source", ""),
                "solution_str": text,
                "ground_truth": expected,
                "extra_info": row.get("extra_info"),
                **{name: value for name, value in row.items() if name not in GIVEN["verl"]},
            }

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


def _style(parameters: Mapping[str, inspect.Parameter], name: str) -> str:
    """The trainer whose signature this is: "trl" or "verl"."""
    if "completion_ids" in parameters and (
        parameters["completion_ids"].default is inspect.Parameter.empty
    ):
        raise UserError(f"{name} takes completion_ids: a reward here sees text, never tokens")
    if "completions" in parameters:
        return "trl"
    if "solution_str" in parameters:
        return "verl"
    raise UserError(
        f"{name} takes {', '.join(parameters) or 'nothing'}: a reward function takes completions "
        "(TRL's signature) or solution_str (verl's)"
    )


async def _wait(awaitable: Any) -> Any:
    return await awaitable


def _ignore(*arguments: object) -> None:
    """Discard what a reward function logs."""
