"""One rule for every grader: if it raises, hangs or returns nonsense, the answer is wrong.

The model chose to write that answer, so it earns 0 and is counted; it is never dropped. Only
`Ungraded` (a network, a worker or a sandbox died) leaves an answer without a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

from tinyzero.errors import Interrupted, Ungraded, brief
from tinyzero.types import Failure, Problem, Reward


class Verdict(NamedTuple):
    """The result of grading one answer.

    Example: `Verdict(Reward(1.0))`, or `Verdict(None, "ConnectionError: no route to host")`.
    """

    reward: Reward | None
    """The reward, or None if the answer could not be graded."""
    error: str = ""
    """What the grader raised, in one line; empty if it returned."""


class Judge(Protocol):
    """The part of a task that grades."""

    @property
    def grades_groups(self) -> bool:
        """Whether the completions of a group must be graded together."""
        ...

    def reward(self, problem: Problem, text: str) -> Any:
        """The reward of one completion."""
        ...

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        """The rewards of the completions of one group, in order."""
        ...


def judge_group(judge: Judge, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """One verdict per text, in order. `problems` has one entry per text too.

    Whatever the judge raises becomes a verdict; only a real Ctrl-C (`Interrupted`) is raised. The
    judge gets copies of the problems, so it cannot change what the next call sees. An exception in
    the list that `rewards` returns is the verdict on that one answer, as if it had been raised.

    Example: `judge_group(task, [problem] * 2, ["</think><answer>42</answer>", "no idea"])`.
    """
    if not judge.grades_groups:
        return [
            _judge_one(judge, problem, text) for problem, text in zip(problems, texts, strict=True)
        ]

    try:
        returned = list(judge.rewards(deepcopy(list(problems)), list(texts)))
        if len(returned) != len(texts):
            raise ValueError(f"{len(returned)} rewards for {len(texts)} completions")
    except BaseException as error:
        return [_verdict_on_error(error)] * len(texts)
    return [_verdict(raw) for raw in returned]


class Grader(Protocol):
    """Where rewards are computed: in this process, or in worker processes that can be killed."""

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Start grading the answers of one group. Returns at once if the grader has workers."""
        ...

    def collect(self, key: Hashable) -> list[Verdict]:
        """Wait for the verdicts of the group submitted as `key`: one per text, in order."""
        ...

    def close(self) -> None:
        """Stop the workers, if there are any."""
        ...


class LocalGrader:
    """Grades in this process. Use it for exact graders that can neither hang nor crash.

    Example: `grader.submit("a", [problem], ["42"])`, then `grader.collect("a")`.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._verdicts: dict[Hashable, list[Verdict]] = {}

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Grade the group now."""
        self._verdicts[key] = judge_group(self.judge, problems, texts)

    def collect(self, key: Hashable) -> list[Verdict]:
        """The verdicts on the group that was submitted as `key`."""
        return self._verdicts.pop(key)

    def close(self) -> None:
        """Do nothing: there are no workers to stop."""


def failed(failure: Failure, error: str) -> Verdict:
    """The verdict on an answer that made its grader fail: reward 0, and wrong.

    Example: `failed("timeout", "the grader took longer than 10 s")`.
    """
    return Verdict(Reward(0.0, {}, right=False, failure=failure), error)


def sound(raw: Any) -> Reward:
    """`raw` as a Reward of plain Python numbers: a Reward, a number, or True or False.

    Raises TypeError if it is anything else, and ValueError if one of its numbers is not finite.

    >>> sound(0.5)
    Reward(value=0.5, parts={}, right=None, failure=None)
    >>> sound(True)
    Reward(value=1.0, parts={}, right=True, failure=None)
    """
    is_bool = isinstance(raw, bool) or type(raw).__name__ in ("bool", "bool_")  # NumPy's too
    if isinstance(raw, Reward):
        parts = {str(name): float(part) for name, part in dict(raw.parts).items()}
        right = None if raw.right is None else bool(raw.right)
        reward = Reward(float(raw.value), parts, right)
    elif is_bool:
        reward = Reward(float(raw), {}, bool(raw))
    elif hasattr(raw, "__float__"):
        reward = Reward(float(raw))
    else:
        raise TypeError(f"the reward is {raw!r}, not a Reward, a number or a bool")

    numbers = (reward.value, *reward.parts.values())
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"the reward is not finite: {raw}")
    return reward


def _judge_one(judge: Judge, problem: Problem, text: str) -> Verdict:
    """The verdict on one completion."""
    try:
        raw = judge.reward(deepcopy(problem), text)
    except BaseException as error:
        return _verdict_on_error(error)
    return _verdict(raw)


def _verdict(raw: Any) -> Verdict:
    """The verdict for what a judge returned."""
    if isinstance(raw, Exception):
        return _verdict_on_error(raw)
    try:
        return Verdict(sound(raw))
    except BaseException as error:
        return _verdict_on_error(error)


def _verdict_on_error(error: BaseException) -> Verdict:
    """The verdict for what a judge raised; a real Ctrl-C is raised again."""
    if isinstance(error, Interrupted):
        raise error
    if isinstance(error, Ungraded):
        return Verdict(None, brief(error))
    return failed("timeout" if isinstance(error, TimeoutError) else "raised", brief(error))
