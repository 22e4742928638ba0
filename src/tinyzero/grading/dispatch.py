"""Grading for a mixture: each answer goes to the grader of its own task."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from tinyzero.grading.episodes import Heard, Reply
from tinyzero.grading.graders import Grader
from tinyzero.grading.verdicts import Verdict
from tinyzero.types import Problem


class DispatchGrader:
    """A grader that hands each group to the grader of the task that drew its problem.

    Example: `DispatchGrader({"countdown": LocalGrader(task), "mine": WorkerPool(...)})`.
    """

    def __init__(self, graders: Mapping[str, Grader]) -> None:
        self.graders = graders
        self._tasks: dict[Hashable, str] = {}

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Start grading the answers of one group, whose problems are all of one task."""
        if not problems:  # nothing was sampled
            return
        self._tasks[key] = problems[0].task
        self.graders[problems[0].task].submit(key, problems, texts)

    def collect(self, key: Hashable) -> list[Verdict]:
        """The verdicts on the group that was submitted as `key`."""
        task = self._tasks.pop(key, None)
        return [] if task is None else self.graders[task].collect(key)

    def respond(self, heard: Sequence[Heard]) -> list[Reply]:
        """What the environments of some episodes answer, each by its own task's grader."""
        return [self.graders[one.problem.task].respond([one])[0] for one in heard]

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Close those of these episodes that are not over."""
        left = list(keys)
        for grader in self.graders.values():
            grader.leave(left)

    def close(self) -> None:
        """Stop the workers of all tasks."""
        for grader in self.graders.values():
            grader.close()
