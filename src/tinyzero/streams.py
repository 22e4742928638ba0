"""The tasks that a run draws its problems from, with their shares of each step and their levels.

A mixture has one stream per task, named like the task. Any other task is one stream named "".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinyzero.curriculum import Curriculum, LevelState, after_step, count_right, levels_of
from tinyzero.errors import UserError
from tinyzero.tasks.base import Task
from tinyzero.tasks.mixture import draw
from tinyzero.tasks.shares import Shares
from tinyzero.types import Group, Problem


class Streams:
    """The streams of `task`: which problems they draw, how many per step, and at which level."""

    def __init__(self, task: Task, curriculum: Curriculum) -> None:
        self.tasks: dict[str, Task] = {name: part.task for name, part in task.mixture.items()}
        self.is_mixture = bool(self.tasks)
        self.tasks = self.tasks or {"": task}

        weights = {name: part.weight for name, part in task.mixture.items()}
        self.shares = Shares(weights or {"": 1})
        self.curriculum = curriculum
        self._at_level: dict[tuple[str, int], Task] = {}

    def quotas(self, step: int, prompts: int) -> dict[str, int]:
        """How many of the `prompts` problems of a step each stream contributes."""
        return self.shares.quotas(step * prompts, prompts)

    def name_of(self, group: Group) -> str:
        """The stream that a group was drawn from."""
        return group[0].problem.task if self.is_mixture else ""

    def short(self, quotas: Mapping[str, int], kept: Sequence[Group]) -> list[str]:
        """The streams that have fewer groups among `kept` than their quota."""
        counts = Counter(map(self.name_of, kept))
        return [name for name, quota in quotas.items() if counts[name] < quota]

    def divide(
        self, quotas: Mapping[str, int], kept: Sequence[Group]
    ) -> tuple[list[Group], list[Group]]:
        """The groups of this step, each stream's up to its quota, and the surplus."""
        taken, surplus = list[Group](), list[Group]()
        counts: Counter[str] = Counter()
        for group in kept:
            name = self.name_of(group)
            counts[name] += 1
            (taken if counts[name] <= quotas.get(name, 0) else surplus).append(group)
        return taken, surplus

    def problem(self, name: str, level: int | None, index: int) -> Problem:
        """The train problem of a stream at `index`, of the given level if it has levels."""
        task = self.tasks[name]
        if level is not None:
            if (name, level) not in self._at_level:
                self._at_level[name, level] = task.at(level)
            task = self._at_level[name, level]
        return draw(task, name, "train", index) if name else task.problem("train", index)

    def has_levels(self, name: str) -> bool:
        """Whether the curriculum moves the level of a stream."""
        return self.curriculum.rule != "none" and len(self.tasks[name].levels) > 1

    def levels(
        self, name: str, level_states: Mapping[str, LevelState], count: int
    ) -> Sequence[int | None]:
        """The level of each of the next `count` problems of a stream; None without a curriculum."""
        if not self.has_levels(name):
            return [None] * count
        position = level_states.get(name, LevelState()).position
        return levels_of(self.tasks[name].levels, position, count)

    def advance(
        self, level_states: dict[str, LevelState], played: Sequence[Group]
    ) -> dict[str, float]:
        """Move the levels by the answers of a step; returns its metrics.

        `played` are all groups of the step, whether they were kept or not. Raises UserError if
        rewards are graded, neither right nor wrong: no level can follow from them.
        """
        metrics: dict[str, float] = {}
        for name in filter(self.has_levels, self.tasks):
            groups = [group for group in played if group and self.name_of(group) == name]
            if any(rollout.reward.right is None for group in groups for rollout in group):
                raise UserError(
                    "curriculum.rule needs answers that are right or wrong, and this task's "
                    "rewards are graded: use --curriculum.rule none"
                )

            state = level_states.get(name, LevelState())
            right, answers = count_right(groups)
            highest = len(self.tasks[name].levels) - 1
            level_states[name] = after_step(self.curriculum, state, highest, right, answers)

            suffix = f"/task={name}" if name else ""
            metrics[f"curriculum/level{suffix}"] = self._level_at(name, state.position)
            if answers:
                metrics[f"curriculum/accuracy{suffix}"] = right / answers
        return metrics

    def _level_at(self, name: str, position: float) -> float:
        """The level at a position: between two of them, in proportion."""
        levels, lower = self.tasks[name].levels, int(position)
        upper = min(lower + 1, len(levels) - 1)
        return levels[lower] + (position - lower) * (levels[upper] - levels[lower])


@dataclass
class Counts:
    """What it took to fill the quotas of a mixture in one step."""

    played: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    refills: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        streams: Streams,
        drawn: Sequence[str],
        groups: Sequence[Group],
        kept: Sequence[Group],
        is_refill: bool,
    ) -> None:
        """Count a round of sampling. Nothing is counted for a task that is not a mixture."""
        if not streams.is_mixture:
            return
        self.played.update(streams.name_of(group) for group in groups if group)
        self.kept.update(map(streams.name_of, kept))
        self.refills.update({name: int(is_refill) for name in drawn})

    def metrics(self) -> dict[str, float]:
        """The counts by their keys in the records."""
        metrics: dict[str, float] = {}
        for name in self.played:
            metrics[f"dropped_groups/task={name}"] = self.played[name] - self.kept[name]
            metrics[f"refill_rounds/task={name}"] = self.refills[name]
        return metrics
