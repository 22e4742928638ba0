"""A mixture: problems of several tasks, each with its own share of every step.

Each `[[task.of]]` names a task, with its `weight` and its options. Its metrics have the task's
label in their names: `accuracy/task=countdown`. Each task keeps its own prompts, stop strings,
rewards and behaviours. The shares are exact in every step, also if the algorithm drops groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.errors import UserError
from tinyzero.tasks import load_task
from tinyzero.tasks.base import Chart, Event, Part, Task
from tinyzero.tasks.shares import Shares
from tinyzero.types import Problem, Prompt, Reward, Split

NAME = "mixture"
MOST_SHOWN = 4  # tasks whose accuracy the console shows


class PartOptions(BaseModel):
    """One task of the mixture; all other keys are options of that task."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    name: str = Field(description="a bundled task, or your own as path/file.py:Name")
    weight: float = Field(
        default=1.0, ge=0.001, le=1000, description="share of the problems, relative to the others"
    )
    label: str = Field(
        default="",
        pattern=r"^[^/=,\s]*$",
        description="what its metrics are called; empty for its name",
    )
    template: str = Field(
        default="", description="prompt template of this task; empty for model.prompt"
    )

    @property
    def called(self) -> str:
        """The label, or the task's name without the path of its file."""
        return self.label or self.name.replace("\\", "/").rpartition("/")[2]


class MixtureOptions(BaseModel):
    """The tasks that are mixed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    of: list[PartOptions] = Field(
        default=[],
        description="the tasks: tables with name, weight, label, template and the task's options",
    )

    @model_validator(mode="after")
    def _names_make_sense(self) -> MixtureOptions:
        called = [part.called for part in self.of]
        for label in called:
            if called.count(label) > 1:
                raise ValueError(
                    f"two tasks of the mixture are called {label!r}: give each a label of its own"
                )
        if any(part.name == NAME for part in self.of):
            raise ValueError("a mixture cannot contain another mixture: list all tasks in one")
        return self


class Mixture(Task):
    """Problems of several tasks, in exact shares.

    Example: `load_task("mixture", {"of": [{"name": "countdown", "weight": 2}, {"name": "sums"}]})`
    asks two problems of Countdown for each sum.
    """

    Options = MixtureOptions

    def __init__(self, options: MixtureOptions | None = None) -> None:
        asked = options or MixtureOptions()
        self.mixture = {part.called: _loaded(part) for part in asked.of}
        self.options = MixtureOptions(
            of=[
                PartOptions(**{**part.model_dump(), **self.mixture[part.called].task.given})
                for part in asked.of
            ]
        )
        self.shares = Shares({label: part.weight for label, part in self.mixture.items()})

        tasks = {label: part.task for label, part in self.mixture.items()}
        self.rules = " Or: ".join(
            dict.fromkeys(task.rules for task in tasks.values() if task.rules)
        )
        self.stop = tuple(dict.fromkeys(stop for task in tasks.values() for stop in task.stop))
        self.kinds = {kind: says for task in tasks.values() for kind, says in task.kinds.items()}
        self.glossary = {
            _of(key, label): f"{means} Only for the problems of {label}."
            for label, task in tasks.items()
            for key, means in task.glossary.items()
        }
        self.charts = [
            _chart_of(chart, label) for label, task in tasks.items() for chart in task.charts
        ]
        self.highlights = {_of("accuracy", label): label for label in [*tasks][:MOST_SHOWN]}
        self.allowed_attacks = [
            attack for task in tasks.values() for attack in task.allowed_attacks
        ]

    def problem(self, split: Split, index: int) -> Problem:
        """The problem at `index`: the weights decide its task, and the task draws it."""
        if not self.mixture:
            raise UserError(
                "the mixture has no tasks: list them as [[task.of]] in the recipe, or as --task.of "
                """'[{name="countdown"}, {name="multiplication"}]'"""
            )
        label, within = self.shares.at(index)
        return draw(self.mixture[label].task, label, split, within)

    def size(self, split: Split) -> int | None:
        """The number of problems in `split` if every task has a limit, else None."""
        sizes = [part.task.size(split) for part in self.mixture.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if sizes and len(known) == len(sizes) else None

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The prompt of the problem's task, in the template that the mixture gives that task."""
        part = self._part(problem)
        prompt: Prompt = part.task.prompt(problem, part.template or template)
        return prompt

    def reward(self, problem: Problem, text: str) -> Any:
        """The reward of the problem's task."""
        return self._part(problem).task.reward(problem, text)

    def rewards(
        self, problems: Sequence[Problem], texts: Sequence[str]
    ) -> Sequence[Reward | float | bool]:
        """The rewards of one group, by the task of its problem."""
        task = self._part(problems[0]).task
        if task.grades_groups:
            return list(task.rewards(problems, texts))
        return [task.reward(problem, text) for problem, text in zip(problems, texts, strict=True)]

    @property
    def grades_groups(self) -> bool:
        """Whether some task grades the completions of a group together."""
        return any(part.task.grades_groups for part in self.mixture.values())

    def solution(self, problem: Problem) -> str | Sequence[str]:
        """The solution of the problem's task."""
        solution: str | Sequence[str] = self._part(problem).task.solution(problem)
        return solution

    def nonsense(self, problem: Problem) -> Iterable[str]:
        """What the problem's task must not reward."""
        nonsense: Iterable[str] = self._part(problem).task.nonsense(problem)
        return nonsense

    def measure(self, problem: Problem, text: str) -> Mapping[str, float]:
        """What the problem's task measures, by label and name."""
        measured = self._part(problem).task.measure(problem, text)
        return {f"{problem.task}\n{name}": number for name, number in measured.items()}

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """The metrics of each task, with its label: `behaviour/attempts/task=countdown`."""
        by_label: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
        for completion in measured:
            names = [name.split("\n", 1) for name in completion]
            for label in {label for label, _ in names}:
                own = {name: completion[f"{label}\n{name}"] for _, name in names}
                by_label[label].append(own)

        metrics: dict[str, float] = {}
        for label in sorted(by_label):
            summary = self.mixture[label].task.summarise(by_label[label])
            metrics |= {_of(key, label): value for key, value in summary.items()}
        return metrics

    def mark(self, problem: Problem, text: str) -> Sequence[Event]:
        """The events that the problem's task finds."""
        events: Sequence[Event] = self._part(problem).task.mark(problem, text)
        return events

    def describe(self, problem: Problem) -> Mapping[str, object]:
        """The label `task`, and those of the task with its name: `countdown.numbers`."""
        labels = self._part(problem).task.describe(problem)
        return {"task": problem.task} | {f"{problem.task}.{key}": labels[key] for key in labels}

    def row(self, problem: Problem) -> Mapping[str, Any]:
        """The row that the problem's task writes, with the column `task`."""
        return {"task": problem.task, **self._part(problem).task.row(problem)}

    def _part(self, problem: Problem) -> Part:
        """The task that drew `problem`. Raises UserError if it is not one of the mixture's."""
        if problem.task not in self.mixture:
            raise UserError(
                f"problem {problem.id!r} is of the task {problem.task!r}, which is not in the "
                f"mixture: it has {', '.join(self.mixture)}"
            )
        return self.mixture[problem.task]


def draw(task: Task, label: str, split: Split, index: int) -> Problem:
    """The problem of one task of a mixture, which names that task by its label."""
    return replace(task.problem(split, index), task=label)


def _loaded(part: PartOptions) -> Part:
    """The task that the options of a mixture name."""
    try:
        task = load_task(part.name, part.model_extra)
    except UserError as error:
        raise UserError(f"in the mixture's {part.called}: {error}") from None
    if task.plays_episodes:
        raise UserError(
            f"in the mixture's {part.called}: its problems take several turns, which a mixture "
            "cannot play: train on that task alone, or leave its tool out"
        )
    return Part(task, part.weight, part.template)


def _of(key: str, label: str) -> str:
    """The key of a metric that counts only the problems of one task."""
    return f"{key}/task={label}"


def _chart_of(chart: Chart, label: str) -> Chart:
    """A task's chart with the metrics that count only its own problems."""
    lines = tuple((_of(key, label), says) for key, says in chart.lines)
    return chart._replace(title=f"{chart.title} ({label})", lines=lines)


TASK = Mixture
