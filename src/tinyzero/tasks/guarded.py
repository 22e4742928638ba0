"""A task behind a guard, which completes it, names it, and turns its errors into one line.

`load_task` wraps every task in a `GuardedTask`, so nothing else has to guard a user's code. A class
that has only the four required methods gets the defaults of `Task` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NoReturn

from tinyzero.errors import TaskError, UserError, guarding
from tinyzero.tasks.base import Episode, Event, LoadScorer, Task
from tinyzero.types import Problem, Prompt, Split

PLAIN = (
    "stop",
    "rules",
    "glossary",
    "charts",
    "highlights",
    "kinds",
    "shortcut",
    "sources",
    "levels",
    "concurrency",
)
"""The attributes of a task, apart from its options."""


class GuardedTask(Task):
    """The task object `owner`, loaded under the name `name` with the options `options`.

    Any exception of the owner becomes a UserError that names the line in the owner's file. A wrong
    return value becomes a TaskError that names the method. The owner gets copies of problems, so it
    cannot change what the run sees.

    Example: `load_task("my_task.py:MyTask").problem("train", 0)`.
    """

    def __init__(self, owner: Any, name: str, options: Mapping[str, Any]) -> None:
        self.owner = owner
        self.name = name
        self.given = dict(options)
        self.trusted = type(owner).__module__.startswith("tinyzero.")
        self.options: Any = getattr(owner, "options", None)

        for attribute in PLAIN:
            default = getattr(Task, attribute)
            setattr(self, attribute, getattr(owner, attribute, default))
        self.stop = _stop_strings(self.stop, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the name and the options: another process loads the task from these."""
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
        with guarding(self.owner):
            problem = self.owner.problem(split, index)
        if not isinstance(problem, Problem):
            raise UserError(
                f"problem({split!r}, {index}) of the task {self.name} gives {problem!r:.80}: "
                "return a Problem"
            )
        return self._named(problem)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        with guarding(self.owner):
            prompt: Prompt = self.owner.prompt(self._copy(problem), template)
        if not isinstance(prompt, str | list | tuple) or not prompt:
            self._reject("prompt", prompt, "text or chat messages", problem)
        return prompt

    def reward(self, problem: Problem, text: str) -> Any:
        """The owner's return value as it is; `grading.judge_group` guards the call."""
        return self.owner.reward(problem, text)

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        """The owner's return value as it is; `grading.judge_group` guards the call."""
        return self.owner.rewards(problems, texts)

    def solution(self, problem: Problem) -> str:
        with guarding(self.owner):
            return str(self.owner.solution(self._copy(problem)))

    def size(self, split: Split) -> int | None:
        size = self._ask("size", split)
        is_count = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if size is not None and not is_count:
            self._reject("size", size, "a whole number from 0, or None if there is no limit")
        count: int | None = size
        return count

    def prepare(self, load_scorer: LoadScorer) -> None:
        self._ask("prepare", load_scorer)

    def costs(self) -> Mapping[str, float]:
        costs: Mapping[str, float] = self._ask("costs")
        return costs

    def expected_costs(self, answers: float, tokens: float, group: int) -> Mapping[str, float]:
        costs: Mapping[str, float] = self._ask("expected_costs", answers, tokens, group)
        return costs

    def nonsense(self, problem: Problem) -> Iterable[str]:
        with guarding(self.owner):
            return list(self._method("nonsense")(self._copy(problem)))

    def measure(self, problem: Problem, text: str) -> Mapping[str, float]:
        measured = self._ask("measure", self._copy(problem), text)
        if not self.trusted and not _is_numbers_by_name(measured):
            self._reject("measure", measured, "numbers by name", problem)
        numbers: Mapping[str, float] = measured
        return numbers

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        metrics: Mapping[str, float] = self._ask("summarise", measured)
        return metrics

    def mark(self, problem: Problem, text: str) -> Sequence[Event]:
        events: Sequence[Event] = self._ask("mark", self._copy(problem), text)
        return events

    def describe(self, problem: Problem) -> Mapping[str, object]:
        described = self._ask("describe", self._copy(problem))
        if not isinstance(described, Mapping):
            self._reject("describe", described, "labels by name", problem)
        labels: Mapping[str, object] = described
        return labels

    def pose(self, line: str) -> Problem:
        problem: Problem = self._ask("pose", line)
        return self._named(problem)

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
        """Call a method of the owner, or the default of `Task`, behind the guard."""
        with guarding(self.owner):
            return self._method(name)(*arguments)

    def _method(self, name: str) -> Any:
        """The owner's own method, or the default of `Task`."""
        return getattr(self.owner, name, None) or getattr(Task, name).__get__(self.owner)

    def _reject(
        self, method: str, given: Any, wanted: str, problem: Problem | None = None
    ) -> NoReturn:
        """Raise a TaskError: `method` returned `given`, and should return `wanted`."""
        subject = f"{method} of problem {problem.id!r}" if problem else method
        raise TaskError(f"{subject} of the task {self.name} gives {given!r:.80}: return {wanted}")

    def _copy(self, problem: Problem) -> Problem:
        """A copy for a user's code, so that changing it changes nothing else."""
        return problem if self.trusted else deepcopy(problem)

    def _named(self, problem: Problem) -> Problem:
        """The problem with this task's name in it, unless it has one already."""
        return problem if problem.task else replace(problem, task=self.name)


def _is_numbers_by_name(measured: Any) -> bool:
    """Whether this is a mapping from text to numbers."""
    if not isinstance(measured, Mapping):
        return False
    return all(
        isinstance(name, str) and hasattr(number, "__float__") for name, number in measured.items()
    )


def _stop_strings(stop: Any, name: str) -> tuple[str, ...]:
    """A task's stop strings as a tuple; a single string is taken for a list of one.

    Raises UserError if one of them is empty or is not text.
    """
    strings = (stop,) if isinstance(stop, str) else stop
    are_valid = isinstance(strings, tuple | list) and all(
        isinstance(string, str) and string for string in strings
    )
    if not are_valid:
        raise UserError(
            f"stop of the task {name} is {stop!r:.80}: give a list of non-empty strings"
        )
    return tuple(strings)


def _overrides(owner: Any, name: str) -> bool:
    """Whether the owner has its own method of this name, instead of the default of `Task`."""
    own_method = getattr(type(owner), name, None)
    return own_method is not None and own_method is not getattr(Task, name)
