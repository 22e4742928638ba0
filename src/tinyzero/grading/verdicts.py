"""One rule for every reward: an answer whose grader raises, hangs or returns nonsense is wrong.

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
    """What became of one answer. `reward` is None if it could not be graded; `error` says what happened."""

    reward: Reward | None
    error: str = ""


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
        """The rewards of a whole group."""
        ...


def judge_group(judge: Judge, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """A verdict for each text, in order. Raises nothing but a real Ctrl-C (`Interrupted`).

    Problems are copied for each call, so a grader cannot change what the next one sees.
    """
    if not judge.grades_groups:
        return [_judge_one(judge, p, text) for p, text in zip(problems, texts, strict=True)]
    try:
        found = list(judge.rewards(deepcopy(list(problems)), list(texts)))
        if len(found) != len(texts):
            raise ValueError(f"{len(found)} rewards for {len(texts)} completions")
    except BaseException as error:
        return [_failed(error)] * len(texts)
    return [_verdict(one) for one in found]


class Grader(Protocol):
    """Where rewards are computed: in this process, or in worker processes that can be killed."""

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Start grading the answers of one group. Returns at once if the grader has workers."""
        ...

    def collect(self, key: Hashable) -> list[Verdict]:
        """Wait for the group's verdicts, one for each text in order."""
        ...

    def close(self) -> None:
        """End the workers, if there are any."""
        ...


class LocalGrader:
    """Grades in this process: for our own exact graders, which can neither raise nor hang."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._found: dict[Hashable, list[Verdict]] = {}

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Grade the group now."""
        self._found[key] = judge_group(self.judge, problems, texts)

    def collect(self, key: Hashable) -> list[Verdict]:
        """The group's verdicts."""
        return self._found.pop(key)

    def close(self) -> None:
        """There is nothing to end."""


def failed(failure: Failure, error: str) -> Verdict:
    """The verdict on an answer that made its grader fail: reward 0, and wrong."""
    return Verdict(Reward(0.0, {}, right=False, failure=failure), error)


def sound(raw: Any) -> Reward:
    """`raw` as a Reward in Python's own numbers; a float is a value, and a bool is right or wrong.

    Raises TypeError if it is none of these, ValueError if a number in it is not finite.
    """
    if isinstance(raw, Reward):
        parts = {str(name): float(part) for name, part in dict(raw.parts).items()}
        right = None if raw.right is None else bool(raw.right)
        reward = Reward(float(raw.value), parts, right)
    elif type(raw).__name__ in ("bool", "bool_") or isinstance(raw, bool):
        reward = Reward(float(raw), {}, bool(raw))
    elif hasattr(raw, "__float__"):
        reward = Reward(float(raw))
    else:
        raise TypeError(f"the reward is {raw!r}, not a Reward, a number or a bool")
    if not all(math.isfinite(number) for number in (reward.value, *reward.parts.values())):
        raise ValueError(f"the reward is not finite: {raw}")
    return reward


def _judge_one(judge: Judge, problem: Problem, text: str) -> Verdict:
    try:
        raw = judge.reward(deepcopy(problem), text)
    except BaseException as error:
        return _failed(error)
    return _verdict(raw)


def _verdict(raw: Any) -> Verdict:
    try:
        return Verdict(sound(raw))
    except BaseException as error:
        return _failed(error)


def _failed(error: BaseException) -> Verdict:
    if isinstance(error, Interrupted):
        raise error
    if isinstance(error, Ungraded):
        return Verdict(None, brief(error))
    return failed("timeout" if isinstance(error, TimeoutError) else "raised", brief(error))
