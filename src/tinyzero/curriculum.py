"""Curricula: the level of the problems rises and falls with the share of right answers.

The level of a task is a *position* among its levels, from 0 for the easiest one. It depends only on
the answers of earlier steps, and it is part of a checkpoint, so a resumed run continues at the same
level. Two rules move it:

- `threshold`: after `window` steps at one level, it rises by one if at least `up` of all their
  answers were right, and falls by one if at most `down` were.
- `linear`: it moves a little after each step, between -1/window (at most `down` right) and
  +1/window (at least `up` right), in proportion to the share of right answers. A position between
  two levels gives problems of both: at 1.25, a quarter of them have the harder level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tinyzero.types import Group

Rule = Literal["none", "threshold", "linear"]


class Curriculum(NamedTuple):
    """How the level moves."""

    rule: Rule = "none"
    up: float = 0.7
    """Share of right answers from which problems become harder."""
    down: float = 0.2
    """Share of right answers up to which problems become easier."""
    window: int = 4
    """Steps that decide about one level."""


NO_CURRICULUM = Curriculum()


@dataclass(frozen=True)
class LevelState:
    """The position of one task in its curriculum, and what was counted there so far."""

    position: float = 0.0
    right: int = 0
    answers: int = 0
    steps: int = 0


def levels_of(levels: Sequence[int], position: float, count: int) -> list[int]:
    """The level of each of the next `count` problems, for a position among `levels`.

    A position between two levels divides the problems between both, rounded to the nearest number.

    >>> levels_of([2, 3, 4], position=1.0, count=3)
    [3, 3, 3]
    >>> levels_of([2, 3, 4], position=1.25, count=4)
    [3, 3, 3, 4]
    """
    lower = int(position)
    harder = round((position - lower) * count)
    upper = min(lower + 1, len(levels) - 1)
    return [levels[lower]] * (count - harder) + [levels[upper]] * harder


def after_step(
    curriculum: Curriculum, state: LevelState, highest: int, right: int, answers: int
) -> LevelState:
    """The state after a step with `right` of `answers` right; `highest` is the last position.

    A step without answers changes nothing.

    >>> after_step(Curriculum("threshold", up=0.5, window=1), LevelState(), 2, right=3, answers=4)
    LevelState(position=1.0, right=0, answers=0, steps=0)
    >>> after_step(Curriculum("linear", up=0.6, down=0.2, window=4), LevelState(1.0), 2, 5, 10)
    LevelState(position=1.125, right=0, answers=0, steps=0)
    """
    if not answers:
        return state
    if curriculum.rule == "linear":
        return LevelState(_within(state.position + _slope(curriculum, right / answers), highest))

    right, answers, steps = state.right + right, state.answers + answers, state.steps + 1
    if steps < curriculum.window:
        return LevelState(state.position, right, answers, steps)

    share = right / answers
    move = 1 if share >= curriculum.up else -1 if share <= curriculum.down else 0
    return LevelState(_within(state.position + move, highest))


def count_right(groups: Sequence[Group]) -> tuple[int, int]:
    """How many answers are right, and how many there are. One that was cut off counts as wrong."""
    rollouts = [rollout for group in groups for rollout in group]
    right = [
        rollout.reward.right is True and rollout.completion.finish_reason != "length"
        for rollout in rollouts
    ]
    return sum(right), len(right)


def _slope(curriculum: Curriculum, share: float) -> float:
    """How far `linear` moves after a step with this share of right answers."""
    middle = (curriculum.up + curriculum.down) / 2
    half = (curriculum.up - curriculum.down) / 2
    return max(-1.0, min(1.0, (share - middle) / half)) / curriculum.window


def _within(position: float, highest: int) -> float:
    """The position, kept between 0 and the highest one; rounded, so that it prints exactly."""
    return round(max(0.0, min(float(highest), position)), 9)
