"""A task behind a guard, which completes it, names it, and turns its errors into one line.

`load_task` wraps every task in a `GuardedTask`, so nothing else has to guard a user's code. A class
that has only the four required methods gets the defaults of `Task` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NoReturn

from pydantic import BaseModel

from tinyzero.errors import TaskError, UserError, guarding
from tinyzero.grading import sound_turns
from tinyzero.registry import acting
from tinyzero.tasks.base import Event, LoadScorer, Task
from tinyzero.tasks.tools import TOOL, Tool, ToolEpisode
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
    "difficulty",
    "levels",
    "max_turns",
    "inline",
    "mixture",
    "needs_sandbox",
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

    def __init__(
        self, owner: Any, name: str, options: Mapping[str, Any], tool: Tool | None = None
    ) -> None:
        self.owner = owner
        self.name = name
        self.given = dict(options)
        self.tool = tool
        self.options: Any = getattr(owner, "options", None)

        for attribute in PLAIN:
            default = getattr(Task, attribute)
            setattr(self, attribute, getattr(owner, attribute, default))
        self.stop = _stop_strings(self.stop, name)
        self._final_stop = self.stop
        if tool is not None:
            self.stop = (*tool.stop, *self.stop)
            self.max_turns, self.inline = tool.max_turns, True
        self.levels = _level_numbers(self.levels, name)

        code = [owner, *([tool] if tool else [])]
        is_ours = all(type(part).__module__.startswith("tinyzero.") for part in code)
        parts_are_trusted = all(part.task.trusted for part in self.mixture.values())
        is_exact = getattr(owner, "trusted", True) and not self.needs_sandbox
        self.trusted: bool = is_ours and is_exact and parts_are_trusted

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
        """Whether the task grades the completions of a group together. Episodes are not."""
        if self.mixture:
            return any(part.task.grades_groups for part in self.mixture.values())
        return _overrides(self.owner, "rewards") and not self.plays_episodes

    @property
    def final_stop(self) -> Sequence[str]:
        """The stop strings without those after which a tool is asked."""
        return self._final_stop

    @property
    def plays_episodes(self) -> bool:
        """Whether problems may take several turns: with a tool, or episodes of the task's own."""
        return self.tool is not None or _overrides(self.owner, "episode")

    def at(self, level: int) -> GuardedTask:
        """The task that draws problems of this level, with the options that make it so.

        Raises UserError if the task does not have the level.
        """
        if level not in self.levels:
            known = ", ".join(map(str, self.levels)) or "none"
            raise UserError(f"the task {self.name} has no level {level}: its levels are {known}")

        owner = self._ask("at", level)
        options = getattr(owner, "options", None)
        given = acting(options) if isinstance(options, BaseModel) else self.given
        if self.tool is not None:
            given = {**given, TOOL: self.given[TOOL]}
        return GuardedTask(getattr(owner, "owner", owner), self.name, given, self.tool)

    def prepare(self) -> None:
        self._ask("prepare")

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

    def reward(self, problem: Problem, text: str | Sequence[str]) -> Any:
        """The owner's return value as it is; `grading.judge_group` guards the call.

        If the task plays episodes, `text` is all that the model says in one, or a list of its
        turns. A text is cut after each stop string, where a turn would have ended.
        """
        if not self.plays_episodes:
            return self.owner.reward(problem, text)
        said = cut_into_turns(text, self.stop) if isinstance(text, str) else list(text)
        episode = self.episode(problem)
        if episode is None:
            return self.owner.reward(problem, "".join(said))

        heard = 0
        try:
            for turn in said[: self.max_turns]:
                heard += 1
                if episode.step(turn) is None:
                    break
            return replace(sound_turns(episode.reward(), heard), turns=())
        finally:
            episode.close()

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        """The owner's return value as it is; `grading.judge_group` guards the call."""
        return self.owner.rewards(problems, texts)

    def solution(self, problem: Problem) -> str | Sequence[str]:
        with guarding(self.owner):
            solution = self.owner.solution(self._copy(problem))
        return [str(said) for said in solution] if _is_list(solution) else str(solution)

    def size(self, split: Split) -> int | None:
        size = self._ask("size", split)
        is_count = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if size is not None and not is_count:
            self._reject("size", size, "a whole number from 0, or None if there is no limit")
        count: int | None = size
        return count

    def notes(self) -> Sequence[str]:
        notes: Sequence[str] = self._ask("notes")
        return notes

    def connect(self, load_scorer: LoadScorer) -> None:
        self._ask("connect", load_scorer)

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

    def episode(self, problem: Problem) -> Any:
        """The owner's return value as it is; `grading.Stage` guards the call."""
        if self.tool is not None:
            return ToolEpisode(self.owner, self.final_stop, problem, self.tool)
        return self._method("episode")(problem)

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


def cut_into_turns(text: str, stop: Sequence[str]) -> list[str]:
    """What a model says, cut after each stop string.

    >>> cut_into_turns("40*6=,7*6=</answer>", stop=["=", "</answer>"])
    ['40*6=', ',7*6=', '</answer>']
    """
    turns: list[str] = []
    while text:
        ends = [text.index(string) + len(string) for string in stop if string in text]
        end = min(ends, default=len(text))
        turns.append(text[:end])
        text = text[end:]
    return turns or [""]


def _is_list(solution: Any) -> bool:
    """Whether a solution has several turns."""
    return isinstance(solution, list | tuple)


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


def _level_numbers(levels: Any, name: str) -> tuple[int, ...]:
    """A task's levels as a tuple; a number n stands for the levels 0 to n - 1.

    Raises UserError if they are anything but different whole numbers.
    """
    if isinstance(levels, int) and not isinstance(levels, bool):
        levels = range(levels)
    are_valid = isinstance(levels, tuple | list | range) and all(
        isinstance(level, int) and not isinstance(level, bool) for level in levels
    )
    if not are_valid or len(set(levels)) < len(levels):
        raise UserError(
            f"levels of the task {name} is {levels!r:.80}: give different whole numbers, from easy "
            "to hard (options that make problems harder are named in `difficulty`)"
        )
    return tuple(levels)


def _overrides(owner: Any, name: str) -> bool:
    """Whether the owner has its own method of this name, instead of the default of `Task`."""
    own_method = getattr(type(owner), name, None)
    return own_method is not None and own_method is not getattr(Task, name)
