"""One rule for every grader: if it raises, hangs or returns nonsense, the answer is wrong.

The model chose to write that answer, so it earns 0 and is counted; it is never dropped. Only
`Ungraded` (a network, a worker or a sandbox died) leaves an answer without a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        return [verdict_on_error(error)] * len(texts)
    return [_verdict(raw) for raw in returned]


def failed(failure: Failure, error: str) -> Verdict:
    """The verdict on an answer that made its grader fail: reward 0, and wrong.

    Example: `failed("timeout", "the grader took longer than 10 s")`.
    """
    return Verdict(Reward(0.0, {}, right=False, failure=failure), error)


def sound(raw: Any) -> Reward:
    """`raw` as a Reward of plain Python numbers: a Reward, a number, or True or False.

    Raises TypeError if it is anything else, and ValueError if one of its numbers is not finite.

    >>> sound(0.5)
    Reward(value=0.5, parts={}, right=None, failure=None, turns=())
    >>> sound(True)
    Reward(value=1.0, parts={}, right=True, failure=None, turns=())
    """
    is_bool = isinstance(raw, bool) or type(raw).__name__ in ("bool", "bool_")  # NumPy's too
    if isinstance(raw, Reward):
        parts = {str(name): float(part) for name, part in dict(raw.parts).items()}
        right = None if raw.right is None else bool(raw.right)
        turns = tuple(float(share) for share in raw.turns)
        reward = Reward(float(raw.value), parts, right, raw.failure, turns)
    elif is_bool:
        reward = Reward(float(raw), {}, bool(raw))
    elif hasattr(raw, "__float__"):
        reward = Reward(float(raw))
    else:
        raise TypeError(f"the reward is {raw!r}, not a Reward, a number or a bool")

    numbers = (reward.value, *reward.parts.values(), *reward.turns)
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"the reward is not finite: {raw}")
    return reward


def sound_turns(raw: Any, turns: int) -> Reward:
    """`raw` as a Reward, for a conversation in which the model had `turns` turns.

    Raises TypeError or ValueError as `sound` does, and ValueError if the reward is divided among
    another number of turns, or its parts do not add up to the value.

    >>> sound_turns(Reward(1.0, turns=(0.25, 0.75)), 2).turns
    (0.25, 0.75)
    """
    reward = sound(raw)
    if reward.turns and len(reward.turns) != turns:
        raise ValueError(f"the reward is divided among {len(reward.turns)} turns, not {turns}")
    if reward.turns and not math.isclose(sum(reward.turns), reward.value, abs_tol=1e-6):
        raise ValueError(
            f"the rewards of the turns add up to {sum(reward.turns):g}, but the value is "
            f"{reward.value:g}"
        )
    return reward


def _judge_one(judge: Judge, problem: Problem, text: str) -> Verdict:
    """The verdict on one completion."""
    try:
        raw = judge.reward(deepcopy(problem), text)
    except BaseException as error:
        return verdict_on_error(error)
    return _verdict(raw)


def _verdict(raw: Any) -> Verdict:
    """The verdict for what a judge returned."""
    if isinstance(raw, Exception):
        return verdict_on_error(raw)
    try:
        return Verdict(sound_turns(raw, 1))
    except BaseException as error:
        return verdict_on_error(error)


def verdict_on_error(error: BaseException) -> Verdict:
    """The verdict for what a judge raised; a real Ctrl-C is raised again.

    >>> verdict_on_error(KeyError("answer")).error
    "KeyError: 'answer'"
    """
    if isinstance(error, Interrupted):
        raise error
    if isinstance(error, Ungraded):
        return Verdict(None, brief(error))
    return failed("timeout" if isinstance(error, TimeoutError) else "raised", brief(error))
