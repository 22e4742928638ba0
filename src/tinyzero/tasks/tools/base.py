"""What a tool defines, and the episode in which a model uses it.

A tool writes into the model's own turn, so it works with every prompt template and every base
model. It needs no example in the prompt if the model writes what the tool waits for anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Protocol

from tinyzero.types import Problem

TOOL = "tool"
"""The name of the option that gives a tool to a task."""


class Tool:
    """A tool that continues what the model writes, such as a calculator after `=`.

    Example: a tool that writes the length of the last line when the model asks for it.

        class Counter(Tool):
            stop = ("length:",)

            def answer(self, text):
                return str(len(text.splitlines()[-1]))
    """

    stop: Sequence[str] = ()
    """The strings after which the tool is asked. They end a turn of the model."""

    max_turns: int = 100
    """The most turns of the model in one completion."""

    def answer(self, text: str) -> str:
        """What the tool writes after `text`; empty if it has nothing to say.

        `text` is everything since the prompt, by the model and by the tool. The answer must depend
        on it alone. Never run what a model wrote (no `eval`).

        Example:

            tool.answer("<think>\\n12*12=")      # "144"
        """
        raise NotImplementedError


class TaskWithReward(Protocol):
    """The part of a task that a tool needs."""

    def reward(self, problem: Problem, text: str) -> Any:
        """The reward of what the model wrote."""
        ...


class ToolEpisode:
    """One completion of a task whose model may use a tool.

    The task's reward judges what the model wrote itself, so no answer of a tool is ever paid.
    """

    def __init__(
        self, task: TaskWithReward, stop: Sequence[str], problem: Problem, tool: Tool
    ) -> None:
        """`stop` are the task's own stop strings, which end the completion."""
        self.task, self.stop, self.problem, self.tool = task, stop, problem, tool
        self.own_words = ""
        self.transcript = ""

    def step(self, said: str) -> str | None:
        """The tool's answer, or None after one of the task's own stop strings."""
        self.own_words += said
        self.transcript += said
        if any(string in said for string in self.stop):
            return None

        answer = self.tool.answer(self.transcript)
        if isinstance(answer, str):
            self.transcript += answer
        return answer

    def reward(self) -> Any:
        """The task's reward for the model's own words."""
        return self.task.reward(deepcopy(self.problem), self.own_words)

    def close(self) -> None:
        """Do nothing: a tool keeps nothing open."""
