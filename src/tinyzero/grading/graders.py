"""Where rewards are computed: the protocol, and the grader that works in the training process."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

from tinyzero.grading.episodes import Heard, Reply, Stage, play_again
from tinyzero.grading.verdicts import Judge, Verdict, judge_group
from tinyzero.types import Problem


class Grader(Protocol):
    """Where rewards are computed: in this process, or in worker processes that can be killed."""

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Start grading the answers of one group. Returns at once if the grader has workers."""
        ...

    def collect(self, key: Hashable) -> list[Verdict]:
        """Wait for the verdicts of the group submitted as `key`: one per text, in order."""
        ...

    def respond(self, heard: Sequence[Heard]) -> list[Reply]:
        """What the environments of some episodes answer to the model's last turns, in order."""
        ...

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Close those of these episodes that are not over."""
        ...

    def close(self) -> None:
        """Stop the workers, if there are any."""
        ...


class LocalGrader:
    """Grades in this process. Use it for exact graders that can neither hang nor crash.

    Episodes stay open between the model's turns.

    Example: `grader.submit("a", [problem], ["42"])`, then `grader.collect("a")`.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge: Any = judge
        self._verdicts: dict[Hashable, list[Verdict]] = {}
        self._stages: dict[Hashable, Stage] = {}

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Grade the group now."""
        self._verdicts[key] = judge_group(self.judge, problems, texts)

    def collect(self, key: Hashable) -> list[Verdict]:
        """The verdicts on the group that was submitted as `key`."""
        return self._verdicts.pop(key)

    def respond(self, heard: Sequence[Heard]) -> list[Reply]:
        """The replies of some episodes. One that is not open is played from the beginning."""
        return [self._respond(one) for one in heard]

    def _respond(self, heard: Heard) -> Reply:
        stage = self._stages.pop(heard.key, None)
        if stage is not None and stage.turns == len(heard.said) - 1:
            reply = stage.hear(heard.said[-1], heard.is_last)
        else:
            if stage is not None:
                stage.close()
            stage, reply = play_again(self.judge, heard)

        if reply.verdict is None:
            self._stages[heard.key] = stage
        return reply

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Close those of these episodes that are still open."""
        for key in keys:
            if stage := self._stages.pop(key, None):
                stage.close()

    def close(self) -> None:
        """Close the episodes that are still open: there are no workers to stop."""
        self.leave(list(self._stages))
