"""`tinyzero probe`: whether training can start from a model on a task, and with which settings.

A group teaches nothing if all its answers earn the same reward. So the probe samples dev problems
at three temperatures and estimates in how many groups of a step right and wrong answers will meet.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from tinyzero.errors import Interrupted, UserError
from tinyzero.evaluate import completion_metrics, distinct_problems, is_right, pass_metrics
from tinyzero.rollouts import Player, Tally
from tinyzero.run.console import clock_text
from tinyzero.run.signs import MANY_CUT, easier
from tinyzero.types import Group, Problem, SamplingParams

TEMPERATURES = (0.6, 0.8, 1.0)
SAMPLES = 8  # answers per problem: as many as pass@8 needs
MOST_PROBLEMS = 64

GOOD, LEAST = 0.3, 0.1
"""Shares of groups with right and wrong answers: enough to start from, and the least that may do.

Both are judgements, not measurements.
"""
LARGER = (16, 32)  # group sizes to try if the recipe's has too few mixed groups
FEWEST = 6  # problems from which the shares mean something
TOO_EASY = 0.8  # pass@1 above which few mixed groups mean that little is left to learn

Progress = Callable[[int, float], None]


@dataclass
class Sampled:
    """What was sampled at one temperature: the groups of the probed problems, in order."""

    temperature: float
    groups: list[Group] = field(default_factory=list)


class Start(NamedTuple):
    """How training would start at one temperature."""

    temperature: float
    figures: Mapping[str, float]
    """pass@k with intervals, and what the answers are like: see `evaluate`."""
    mixed: float
    """Expected share of groups, of the recipe's size, in which answers differ in their reward."""


def sample_in_time(
    player: Player, params: SamplingParams, seconds: float, progress: Progress | None = None
) -> tuple[list[Problem], list[Sampled], Tally]:
    """Play dev problems at each of TEMPERATURES, `SAMPLES` times each, until the time is used.

    Each round has twice as many problems as the one before, or as many as still fit into `seconds`.
    A round that takes longer is interrupted, and does not count. `progress(problems, seconds)` is
    called after each.

    Raises UserError if no problem fits into the model's context, or none into `seconds`.
    """
    drawn = _available(player)
    fitting = [problem for problem in drawn if player.fits(problem, params)]
    if not fitting:
        raise UserError(
            f"no dev prompt and an answer of {params.max_tokens} tokens fit into the model's "
            f"context of {player.context}: lower --max-tokens"
        )

    tally = Tally()
    sampled = [Sampled(temperature) for temperature in TEMPERATURES]
    started = time.perf_counter()
    done, count = 0, 1

    with suppress(TimeUp), time_limit(seconds):
        while done < len(fitting) and count:
            chosen = fitting[done : done + count]
            round_started = time.perf_counter()
            groups = [
                player.play(chosen, _at(params, part.temperature), done, tally) for part in sampled
            ]

            for part, new in zip(sampled, groups, strict=True):
                part.groups += new
            done += len(chosen)

            now = time.perf_counter()
            if progress:
                progress(done, now - started)
            per_problem = (now - round_started) / len(chosen)
            left = seconds - (now - started)
            count = min(2 * len(chosen), int(left / max(per_problem, 1e-9))) if left > 0 else 0

    if not done:
        raise UserError(
            f"no problem was answered in {clock_text(seconds)}, with {SAMPLES} answers of up to "
            f"{params.max_tokens} tokens at each of {len(TEMPERATURES)} temperatures: lower "
            "--max-tokens, or give more --minutes"
        )
    return fitting[:done], sampled, tally


class TimeUp(Interrupted):
    """The time is used. Like Ctrl-C, it is never taken for a fault of the task."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp inside after `seconds`. Only the main thread can be interrupted like this."""

    def interrupt(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _available(player: Player) -> list[Problem]:
    """Up to MOST_PROBLEMS distinct dev problems; fewer if an endless split has fewer."""
    count = MOST_PROBLEMS
    while True:
        try:
            return distinct_problems(player.task, "dev", count)
        except UserError:
            if count == 1:
                raise
            count //= 2


def _at(params: SamplingParams, temperature: float) -> SamplingParams:
    return SamplingParams(
        temperature=temperature, max_tokens=params.max_tokens, n=SAMPLES, seed=params.seed
    )


def starts_of(
    player: Player, problems: Sequence[Problem], sampled: Sequence[Sampled], group_size: int
) -> list[Start]:
    """The figures at each temperature, with the share of mixed groups of `group_size` answers."""
    starts = []
    for part in sampled:
        figures = pass_metrics(player.task, problems, part.groups, SAMPLES)
        figures |= completion_metrics(player.task, part.groups)
        starts.append(Start(part.temperature, figures, mixed_share(part.groups, group_size)))
    return starts


def mixed_share(groups: Sequence[Group], size: int) -> float:
    """The expected share of groups of `size` answers that have right and wrong ones.

    The chance p of a right answer differs between problems. A beta distribution with the mean and
    the variance that the groups show gives the chances that all answers of a group are right, or
    all wrong, also for a `size` that was not sampled. If rewards are graded, neither right nor
    wrong, it is the share of the sampled groups whose rewards differ.
    """
    rollouts = [rollout for group in groups for rollout in group]
    if any(rollout.reward.right is None for rollout in rollouts):
        return unequal_share(groups)
    return expected_mixed([sum(map(is_right, group)) for group in groups], SAMPLES, size)


def unequal_share(groups: Sequence[Group]) -> float:
    """The share of the groups in which the rewards differ."""
    unequal = [len({rollout.reward.value for rollout in group}) > 1 for group in groups]
    return sum(unequal) / len(unequal)


def expected_mixed(right: Sequence[int], samples: int, size: int) -> float:
    """E[1 - p^size - (1 - p)^size] for p of each problem with `right` of `samples` answers right.

    The mean of p² is estimated without bias by the share of pairs of answers that are both right.

    >>> expected_mixed([4, 4], samples=8, size=2)
    0.5
    >>> expected_mixed([0, 8], samples=8, size=16)
    0.0
    """
    mean = sum(right) / (samples * len(right))
    pairs = sum(count * (count - 1) for count in right) / (samples * (samples - 1) * len(right))
    variance, most = pairs - mean * mean, mean * (1 - mean)

    if variance >= most:  # every problem is always solved or never
        return 0.0
    if variance <= 0:
        return 1 - mean**size - (1 - mean) ** size

    weight = most / variance - 1
    a, b = mean * weight, (1 - mean) * weight
    all_right = prod((a + i) / (a + b + i) for i in range(size))
    all_wrong = prod((b + i) / (a + b + i) for i in range(size))
    return 1 - all_right - all_wrong


def best_of(starts: Sequence[Start], usual: float) -> Start:
    """The start to recommend: many mixed groups, few cut answers, and the `usual` temperature.

    Shares that differ by less than a tenth are taken as equal.
    """
    most = max(start.mixed for start in starts)
    alike = [start for start in starts if start.mixed >= most - 0.1]
    return min(
        alike,
        key=lambda start: (
            round(start.figures["truncated"], 1),
            abs(start.temperature - usual),
        ),
    )


def table(starts: Sequence[Start], group_size: int) -> list[str]:
    """One line per temperature under a heading."""
    judges_form = all("malformed" in start.figures for start in starts)
    headings = [
        "temperature",
        "pass@1",
        f"pass@{SAMPLES}",
        "cut",
        "formed" if judges_form else "ended",
        "tokens",
        f"mixed of {group_size}",
    ]
    rows = [headings]
    for start in starts:
        figures = start.figures
        formed = 1 - figures["truncated"] - figures.get("malformed", 0.0)
        rows.append(
            [
                f"{start.temperature:g}",
                _with_interval(figures, "pass@1"),
                f"{figures[f'pass@{SAMPLES}']:.3f}",
                f"{figures['truncated']:.0%}",
                f"{formed:.0%}",
                f"{figures['response_length']:.0f}",
                f"{start.mixed:.0%}",
            ]
        )

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]


def _with_interval(figures: Mapping[str, float], key: str) -> str:
    return f"{figures[key]:.3f} [{figures[f'{key}/low']:.3f}, {figures[f'{key}/high']:.3f}]"


def verdict(
    start: Start, problems: int, group_size: int, max_tokens: int, task_levels: Sequence[str]
) -> list[str]:
    """Whether training can start there, and what would help, one sentence per line.

    `problems` is the number of those that were probed: a few say little.
    """
    if problems < FEWEST:
        count = "1 problem was" if problems == 1 else f"{problems} problems were"
        return [f"only {count} answered, which is too few to tell: give more --minutes"]

    figures, lines = start.figures, []
    shown = (
        f"about {start.mixed:.0%} of the groups of {group_size} will have answers with different "
        f"rewards at temperature {start.temperature:g}"
    )
    is_easy = figures["pass@1"] >= TOO_EASY

    if start.mixed >= GOOD:
        lines.append(f"training can start here: {shown}")
    elif is_easy:
        lines.append(f"there is little left to learn: {shown}; use harder problems")
    elif start.mixed >= LEAST:
        lines.append(f"training may start slowly: {shown}; {easier(task_levels)} would help")
    else:
        lines.append(f"training cannot start here: only {shown}; use {easier(task_levels)}")

    if figures["truncated"] >= MANY_CUT:
        lines.append(
            f"{figures['truncated']:.0%} of the answers are cut at {max_tokens} tokens: "
            f"compare with --max-tokens {2 * max_tokens}"
        )
    return lines


def samples_for(groups: Sequence[Group], group_size: int) -> int:
    """The group size to train with: the recipe's, or a larger one if only that is enough."""
    sizes = [group_size, *(size for size in LARGER if size > group_size)]
    enough = [size for size in sizes if mixed_share(groups, size) >= GOOD]
    return enough[0] if enough else group_size
