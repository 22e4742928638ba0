"""Signs that training goes wrong, which the console says early and the report shows at the end.

Each function reads the columns of metrics.jsonl up to now, and returns an alarm or None. The two
places thus share rules and words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

Streams = Mapping[str, Sequence[float]]
"""Columns of metrics.jsonl, and of the stored rollouts: `rollouts/step`, `rollouts/looping`."""

WINDOW = 5  # a trend compares at least this many steps, if there are that many on both sides
MOST_FLAT = 0.8  # share of groups with equal rewards from which there is almost nothing to learn
MOST_FLAT_IF_EASY = 0.9  # the same when most answers are right
EASY = 0.5  # share of right answers from which equal rewards mean that problems are too easy
MANY_CUT = 0.25  # share of answers at the token limit
CUT_AND_RIGHT = 1.05  # the shares of cut and of right answers cannot add up to more if cut is wrong
FALL_FROM = 0.1  # accuracy from which a fall is no accident
FALL_TO = 0.2  # share of its best accuracy below which a policy has fallen
CRASH = 0.1  # share of its first entropy below which a policy no longer explores
LEAST_TRUTH = 0.02  # rise of the share of right answers below which it counts as flat
LENGTH_CHANGE = 1.5  # factor between lengths from which a reward may be one of length
TAKEOVER = 0.3  # share of repeated text, or of equal answers, that is no accident
SOLVED = 0.9  # a policy that solves this many problems may be certain


class Alarm(NamedTuple):
    """`title` in a few words, `seen` with the figures, `advice` on what to try."""

    title: str
    seen: str
    advice: str


def equal_groups(streams: Streams, levels: Sequence[str] = ()) -> Alarm | None:
    """In nearly every group all answers have the same reward, so there is nothing to compare.

    One step is enough only if no group of it has different rewards. `levels` are the task's
    options that make its problems easier or harder.

    >>> steps = {"accuracy": [0.0, 0.01], "flat_groups": [1.0, 0.9]}
    >>> equal_groups(steps, ["max_number"]).advice[:68]
    'The problems are too hard: use easier problems (--task.max_number), '
    """
    flats = streams.get("flat_groups", ())
    flat, accuracy = mean(last(flats)), mean(last(streams.get("accuracy", ())))
    if flat is None or accuracy is None:
        return None

    is_easy = are_easy(streams)
    least = MOST_FLAT_IF_EASY if is_easy else MOST_FLAT
    if flat < (1.0 if len(flats) == 1 else least):
        return None

    shown = f"all answers had the same reward in {percent(flat)} of the groups"
    right = "" if is_graded(streams) else f", with {percent(accuracy)} of the answers right"
    if is_graded(streams):
        title = "Almost nothing to learn from"
        advice = "Try the reward with `tinyzero check-task`: it should tell answers apart."
    elif is_easy:
        title = "Almost nothing left to learn from"
        advice = "The problems have become too easy: stop here, or train on harder ones."
    else:
        title = "Almost nothing to learn from"
        advice = (
            f"The problems are too hard: use {easier(levels)}, sample more answers per problem "
            "(rollout.samples), or start with a model that solves some of them. `tinyzero probe` "
            "shows where a model can start."
        )
    return Alarm(title, f"In the last steps {shown}{right}.", advice)


def truncation(streams: Streams) -> Alarm | None:
    """Many answers reach the token limit and count as wrong.

    The first steps of a model that rambles do not count, unless they teach it nothing.
    """
    cuts = streams.get("truncated", ())
    cut = mean(last(cuts))
    if cut is None or cut < MANY_CUT or cut_can_be_right(streams):
        return None
    if len(cuts) < WINDOW and not equal_groups(streams):
        return None

    return Alarm(
        "Many answers are cut off",
        f"In the last steps {percent(cut)} of the answers reached the token limit before their "
        "end.",
        "Raise rollout.max_tokens if the answers were making progress. If they loop, look at what "
        "they repeat.",
    )


def cut_can_be_right(streams: Streams) -> bool:
    """Whether an answer may be right although it is cut off, as when the last number counts.

    So it is if the shares of cut and of right answers of a step add up to more than 1.
    """
    cut, right = streams.get("truncated", ()), streams.get("accuracy", ())
    return any(a + b > CUT_AND_RIGHT for a, b in zip(cut, right, strict=False) if _finite(a, b))


def collapse(streams: Streams) -> Alarm | None:
    """The policy solved some problems, and in the last two steps it solves almost none."""
    accuracy = [value for value in streams.get("accuracy", ()) if math.isfinite(value)]
    if len(accuracy) < 4 or is_graded(streams):
        return None

    pairs = [(a + b) / 2 for a, b in pairwise(accuracy)]
    best, end = max(pairs[:-2]), pairs[-1]
    if best < FALL_FROM or end >= FALL_TO * best:
        return None

    return Alarm(
        "It has collapsed",
        f"In the last two steps {percent(end)} of the answers were right, and before that up to "
        f"{percent(best)}.",
        "A lower learning rate (optimizer.learning_rate) is the first thing to try. Take an "
        "earlier checkpoint: from here the policy has little to learn from.",
    )


def entropy_collapse(streams: Streams) -> Alarm | None:
    """The policy no longer explores although many answers are wrong.

    Steps in which every group has zero advantage do not count.
    """
    entropy, flat_groups = streams.get("entropy", ()), streams.get("flat_groups", ())
    flat_shares = flat_groups or [0.0] * len(entropy)
    counted = [value for value, share in zip(entropy, flat_shares, strict=False) if share < 1]
    width = min(WINDOW, len(counted) // 2)
    start, end = mean(counted[:width]), mean(last(counted, width))
    accuracy = mean(last(streams.get("accuracy", ()), width))
    if not width or start is None or end is None or accuracy is None:
        return None
    if end >= CRASH * start or accuracy >= SOLVED:
        return None

    return Alarm(
        "It no longer explores",
        f"The entropy of the next token fell from {start:.3g} to {end:.3g} nats while only "
        f"{percent(accuracy)} of the answers are right.",
        "Lower the learning rate, raise the upper clip range (algorithm.clip_high), or add an "
        "entropy bonus (algorithm.entropy).",
    )


def reward_hacking(streams: Streams) -> Alarm | None:
    """A graded reward rises, but the truth that is measured apart from it does not."""
    reward, truth = rise(streams.get("reward", ())), trend(streams.get("behaviour/truth", ()))
    if not is_graded(streams) or reward is None or truth is None:
        return None
    if truth[1] - truth[0] >= LEAST_TRUTH:
        return None

    return Alarm(
        "The reward is being hacked",
        f"The reward went from {reward[0]:.3g} to {reward[1]:.3g}, while the answers that are "
        f"really right went from {percent(truth[0])} to {percent(truth[1])}.",
        "Read some answers with a high reward. Stop early, keep the policy closer to its start "
        "(algorithm.kl), or improve the rubric or the reward model: what it rewards now is not "
        "what you want.",
    )


def length_takeover(streams: Streams) -> Alarm | None:
    """A graded reward rises while the answers become much longer or much shorter."""
    lengths = trend(streams.get("response_length", ()))
    if not is_graded(streams) or rise(streams.get("reward", ())) is None or lengths is None:
        return None
    if lengths[0] / LENGTH_CHANGE < lengths[1] < lengths[0] * LENGTH_CHANGE:
        return None

    return Alarm(
        "The reward follows the length",
        f"While the reward rose, the answers went from {lengths[0]:.0f} to {lengths[1]:.0f} tokens "
        "on average.",
        "Compare short and long answers of equal quality: if the reward prefers one kind, say so "
        "in the rubric, or add pairs that differ in length only.",
    )


def repetition_takeover(streams: Streams) -> Alarm | None:
    """A graded reward is earned with text that repeats itself."""
    return _takeover(
        streams,
        "behaviour/repetition",
        "Repeated text takes over",
        "of the text had occurred before in the same answer",
        "The reward does not mind repetition. Read some answers, then say so in the rubric or add "
        "pairs in which the repeating answer is rejected.",
    )


def majority_takeover(streams: Streams) -> Alarm | None:
    """A graded reward is earned with the same answer to many questions."""
    return _takeover(
        streams,
        "behaviour/majority",
        "One answer takes over",
        "of the answers are the same text",
        "The reward accepts one answer to every question. Let the judge or the reward model see "
        "the question, and add pairs in which a general answer is rejected.",
    )


def _takeover(streams: Streams, key: str, title: str, what: str, advice: str) -> Alarm | None:
    """An alarm if a share has grown to a part of the answers that is no accident."""
    shares = trend(streams.get(key, ()))
    if not is_graded(streams) or shares is None:
        return None
    if shares[1] < TAKEOVER or shares[1] - shares[0] < TAKEOVER / 2:
        return None
    seen = f"At first {percent(shares[0])} {what}, and in the last steps {percent(shares[1])}."
    return Alarm(title, seen, advice)


HACKING = (reward_hacking, length_takeover, repetition_takeover, majority_takeover)
"""The alarms about graded rewards, such as those of a judge or a reward model."""


def rise(values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the first and the last fifth if the second is higher by more than chance explains.

    That is three standard errors, from the spread within each of the two fifths.
    """
    ends = trend(values)
    if ends is None:
        return None
    numbers = [value for value in values if math.isfinite(value)]
    fifth = len(numbers) // 5
    first, second = numbers[:fifth], numbers[-fifth:]
    squares = sum((value - ends[0]) ** 2 for value in first)
    squares += sum((value - ends[1]) ** 2 for value in second)
    error = math.sqrt(squares / max(1, 2 * fifth - 2) * 2 / fifth)
    return ends if ends[1] - ends[0] > max(3 * error, 1e-9) else None


def trend(values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the first and the last fifth, or None if there are fewer than ten numbers.

    >>> trend([1.0] * 5 + [3.0] * 5)
    (1.0, 3.0)
    """
    numbers = [value for value in values if math.isfinite(value)]
    if len(numbers) < 10:
        return None
    fifth = len(numbers) // 5
    return sum(numbers[:fifth]) / fifth, sum(numbers[-fifth:]) / fifth


def are_easy(streams: Streams) -> bool:
    """Whether most of the last answers are right, so that equal rewards are a success."""
    accuracy = mean(last(streams.get("accuracy", ())))
    return accuracy is not None and accuracy >= EASY and not is_graded(streams)


def easier(levels: Sequence[str]) -> str:
    """How to get easier problems, with the options of the task that say how hard they are.

    >>> easier(["max_count", "max_number"])
    'easier problems (--task.max_count, --task.max_number)'
    """
    options = ", ".join(f"--task.{level}" for level in levels)
    return f"easier problems ({options})" if options else "easier problems"


def is_graded(streams: Streams) -> bool:
    """Whether rewards are graded, so that answers are neither right nor wrong."""
    return any(value > 0 for value in streams.get("graded", ()))


def mean(values: Sequence[float]) -> float | None:
    """The mean of the finite values, or None if no value is finite."""
    numbers = [value for value in values if math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else None


def last(values: Sequence[float], least: int = WINDOW) -> Sequence[float]:
    """The last fifth of the values, and at least the last `least`."""
    return values[-max(least, len(values) // 5, 1) :]


def percent(share: float) -> str:
    """`0.123` as `12 %`; less than a hundredth has one decimal."""
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))
