"""Grading for a mixture: each answer goes to the grader of its own task."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from tinyzero.grading.verdicts import Grader, Verdict
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

    def close(self) -> None:
        """Stop the workers of all tasks."""
        for grader in self.graders.values():
            grader.close()
