"""What a task may define: one base class with defaults. Nothing is guessed from field names.

A task needs `problem`, `prompt`, `reward` and `solution`; everything else has a default. A class
with these four methods and no base class is a task too: `load_task` fills in the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel

from tinyzero.errors import UserError
from tinyzero.types import Problem, Prompt, Reward, Split


class NoSolution(UserError):
    """Raised by `solution` if no answer is known that earns full marks."""


class Event(NamedTuple):
    """Something that a completion does: `text[start:end]` is where. `kind` is any name of the task's own.

    The report knows three kinds: "right" (a result that solves the problem), "verification" (the model
    judges a result; the detail is "yes" or "no"), and "backtrack" (it starts anew).
    """

    kind: str
    start: int
    end: int
    detail: str = ""


class Chart(NamedTuple):
    """Metrics of a task that its report draws over one axis: each of `lines` is a key and its label."""

    title: str
    says: str
    """What is seen there, in a sentence."""
    lines: tuple[tuple[str, str], ...]
    form: Literal["number", "share"] = "number"


class Shortcut(NamedTuple):
    """An easy method that solves the problems which `describe` gives the label `label` the value `value`.

    A report shows how far it goes, by kind of problem; `says` names it there.
    """

    label: str
    value: str
    says: str


class Episode(Protocol):
    """A conversation of several turns about one problem."""

    def step(self, said: str) -> str | None:
        """What the environment answers to the model's last turn, or None if the episode is over."""
        ...

    def reward(self) -> Reward:
        """What the whole episode earned."""
        ...

    def close(self) -> None:
        """Give back what the episode holds."""
        ...


class Task:
    """A family of problems and the check of an answer. No torch and no tokens: text only.

    Example: see examples/my_task.py.
    """

    Options: ClassVar[type[BaseModel] | None] = None
    """A pydantic model; its fields are options of the command line, as `--task.NAME value`."""

    stop: Sequence[str] = ("</answer>",)
    """A completion ends with the first of these strings. Empty: only the model's end token ends it."""

    rules: str = ""
    """One sentence that tells a newcomer what is asked."""

    glossary: Mapping[str, str] = {}
    """What each metric of `summarise`, and each part of a reward, means."""

    charts: Sequence[Chart] = ()
    """The metrics of `summarise` that the report draws, in this order. Others are drawn after them."""

    highlights: Mapping[str, str] = {}
    """The few metrics that the console and summaries show too, each with a heading of a word or two."""

    kinds: Mapping[str, str] = {}
    """The kinds of event found by `mark` that the report shows, each in a few words."""

    shortcut: Shortcut | None = None
    """An easy method that scores are compared with."""

    sources: Sequence[str] = ()
    """Options that name a file or a dataset. Estimates leave them out, so that nothing is fetched."""

    allowed_attacks: Sequence[str] = ()
    """What `tinyzero check-task` finds and is meant, such as "junk around the answer"."""

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None and self.Options else options

    @property
    def is_posable(self) -> bool:
        """Whether a person can type problems of this task."""
        return type(self).pose is not Task.pose

    @property
    def grades_groups(self) -> bool:
        """Whether the task grades the completions of a group together."""
        return type(self).rewards is not Task.rewards

    def problem(self, split: Split, index: int) -> Problem:
        """The problem at `index` of `split`. It must depend on nothing but these arguments."""
        raise NotImplementedError

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The text or the chat messages that pose `problem`. Raises UserError on an unknown template."""
        raise NotImplementedError

    def reward(self, problem: Problem, text: str) -> Reward | float | bool:
        """Judge one completion. A float is a value, and a bool is right or wrong. It must not run the text."""
        raise NotImplementedError

    def rewards(
        self, problems: Sequence[Problem], texts: Sequence[str]
    ) -> Sequence[Reward | float | bool]:
        """Judge the completions of one group together. By default each is judged by `reward`."""
        return [self.reward(p, t) for p, t in zip(problems, texts, strict=True)]

    def solution(self, problem: Problem) -> str:
        """A completion that earns full marks. Raises NoSolution if none is known."""
        raise NotImplementedError

    def size(self, split: Split) -> int | None:
        """How many problems `split` has, or None if it has no end. Indices beyond it start again at 0."""
        return None

    def nonsense(self, problem: Problem) -> Iterable[str]:
        """Texts that must not be paid; `tinyzero check-task` tries them next to its own."""
        return ()

    def measure(self, problem: Problem, text: str) -> Mapping[str, float]:
        """Figures of how one completion goes about the problem. `summarise` turns them into metrics."""
        return {}

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Metrics from what `measure` found in many completions; by default `behaviour/NAME` means."""
        names = sorted({name for one in measured for name in one})
        found = {name: [one[name] for one in measured if name in one] for name in names}
        return {f"behaviour/{name}": sum(v) / len(v) for name, v in found.items()}

    def mark(self, problem: Problem, text: str) -> Sequence[Event]:
        """What a completion does, by place, for the report to highlight."""
        return ()

    def describe(self, problem: Problem) -> Mapping[str, object]:
        """Labels that evaluations group by, such as {"digits": 3}."""
        return {}

    def pose(self, line: str) -> Problem:
        """The problem that a person typed. Raises UserError if the line is not one."""
        raise UserError("this task draws its problems: press Enter for one")

    def line(self, problem: Problem) -> str:
        """What to type for `problem`: `pose` reads it back. Empty if problems cannot be typed."""
        return ""

    def row(self, problem: Problem) -> Mapping[str, Any]:
        """What `tinyzero data` writes of a problem, columns by name."""
        return dict(problem.fields)

    def episode(self, problem: Problem) -> Episode | None:
        """A conversation of several turns, or None if the task has only one."""
        return None
