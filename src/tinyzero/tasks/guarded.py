"""A task behind its guard: complete, named, and unable to take the run down.

`load_task` wraps every task in a `GuardedTask`, so nothing else guards a user's code. A class with
only the four required methods gets the defaults of `Task` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NoReturn

from tinyzero.errors import TaskError, UserError, asking
from tinyzero.tasks.base import Episode, Event, Task
from tinyzero.types import Problem, Prompt, Split

PLAIN = ("stop", "rules", "glossary", "charts", "highlights", "kinds", "shortcut", "sources")
"""What a task has besides its options and methods."""


class GuardedTask(Task):
    """The task `owner` called `name`. Whatever it raises becomes a UserError that names its line."""

    def __init__(self, owner: Any, name: str, options: Mapping[str, Any]) -> None:
        self.owner, self.name, self.given = owner, name, dict(options)
        self.trusted = type(owner).__module__.startswith("tinyzero.")
        self.options: Any = getattr(owner, "options", None)
        for attribute in PLAIN:
            setattr(self, attribute, getattr(owner, attribute, getattr(Task, attribute)))
        self.stop = _stop_strings(self.stop, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A task travels to another process as its name and options, and is loaded there."""
        from tinyzero.tasks import load_task

        return load_task, (self.name, self.given)

    @property
    def is_posable(self) -> bool:
        """Whether a person can type problems of this task."""
        return _overrides(self.owner, "pose")

    @property
    def grades_groups(self) -> bool:
        """Whether the task grades the completions of a group together."""
        return _overrides(self.owner, "rewards")

    def problem(self, split: Split, index: int) -> Problem:
        with asking(self.owner):
            problem = self.owner.problem(split, index)
        if not isinstance(problem, Problem):
            raise UserError(
                f"{self.name} gives {problem!r:.80} for problem({split!r}, {index}), not a Problem"
            )
        return problem if problem.task else replace(problem, task=self.name)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        with asking(self.owner):
            prompt: Prompt = self.owner.prompt(self._copy(problem), template)
        if not isinstance(prompt, str | list | tuple) or not prompt:
            self._refuse("prompt", prompt, "text or chat messages", problem)
        return prompt

    def reward(self, problem: Problem, text: str) -> Any:
        """As the owner gives it: `grading.judge_group` guards it."""
        return self.owner.reward(problem, text)

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        """As the owner gives them: `grading.judge_group` guards them."""
        return self.owner.rewards(problems, texts)

    def solution(self, problem: Problem) -> str:
        with asking(self.owner):
            return str(self.owner.solution(self._copy(problem)))

    def size(self, split: Split) -> int | None:
        size = self._ask("size", split)
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            self._refuse("size", size, "a whole number from 0 up, or None for no end")
        found: int | None = size
        return found

    def nonsense(self, problem: Problem) -> Iterable[str]:
        with asking(self.owner):
            return list(self._method("nonsense")(self._copy(problem)))

    def measure(self, problem: Problem, text: str) -> Mapping[str, float]:
        measured = self._ask("measure", self._copy(problem), text)
        if not self.trusted and not _is_figures(measured):
            self._refuse("measure", measured, "numbers by name", problem)
        figures: Mapping[str, float] = measured
        return figures

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        metrics: Mapping[str, float] = self._ask("summarise", measured)
        return metrics

    def mark(self, problem: Problem, text: str) -> Sequence[Event]:
        events: Sequence[Event] = self._ask("mark", self._copy(problem), text)
        return events

    def describe(self, problem: Problem) -> Mapping[str, object]:
        described = self._ask("describe", self._copy(problem))
        if not isinstance(described, Mapping):
            self._refuse("describe", described, "labels by name", problem)
        labels: Mapping[str, object] = described
        return labels

    def pose(self, line: str) -> Problem:
        problem: Problem = self._ask("pose", line)
        return problem if problem.task else replace(problem, task=self.name)

    def line(self, problem: Problem) -> str:
        line: str = self._ask("line", self._copy(problem))
        return line

    def row(self, problem: Problem) -> Mapping[str, Any]:
        row: Mapping[str, Any] = self._ask("row", self._copy(problem))
        return row

    def episode(self, problem: Problem) -> Episode | None:
        episode: Episode | None = self._ask("episode", self._copy(problem))
        return episode

    def _ask(self, name: str, *arguments: Any) -> Any:
        with asking(self.owner):
            return self._method(name)(*arguments)

    def _method(self, name: str) -> Any:
        """The owner's own method, or the default of `Task`."""
        return getattr(self.owner, name, None) or getattr(Task, name).__get__(self.owner)

    def _refuse(
        self, method: str, given: Any, wanted: str, problem: Problem | None = None
    ) -> NoReturn:
        """What a method returned is not what it is for."""
        of = f" of problem {problem.id!r}" if problem else ""
        raise TaskError(
            f"{method}{of} of the task {self.name} gives {given!r:.80}: return {wanted}"
        )

    def _copy(self, problem: Problem) -> Problem:
        """What a user's code is given, so that changing it changes nothing else."""
        return problem if self.trusted else deepcopy(problem)


def _is_figures(measured: Any) -> bool:
    """Whether it is numbers by name."""
    if not isinstance(measured, Mapping):
        return False
    return all(isinstance(name, str) and hasattr(x, "__float__") for name, x in measured.items())


def _stop_strings(stop: Any, name: str) -> tuple[str, ...]:
    """A task's stop strings; a single one may be given as it is. Raises UserError if one is not text, or empty."""
    strings = (stop,) if isinstance(stop, str) else stop
    sound = isinstance(strings, tuple | list) and all(isinstance(s, str) and s for s in strings)
    if not sound:
        raise UserError(
            f"stop of the task {name} is {stop!r:.80}: give strings, none of them empty"
        )
    return tuple(strings)


def _overrides(owner: Any, name: str) -> bool:
    """Whether the owner has a method of its own by that name."""
    own = getattr(type(owner), name, None)
    return own is not None and own is not getattr(Task, name)
