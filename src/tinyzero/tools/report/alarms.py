"""Checks for what often goes wrong in training. Pure functions from a run's columns to plain words.

The checks that the console makes too, while the run is young, are in `run.signs`.
Trends compare the first fifth of the steps with the last fifth and need at least ten steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tinyzero.errors import brief
from tinyzero.run import signs
from tinyzero.run.signs import (
    Alarm,
    Streams,
    collapse,
    entropy_collapse,
    equal_groups,
    is_graded,
    last,
    mean,
    percent,
    truncation,
)

GRADER_FAILURES = 0.01  # share of answers on which the grader may fail
LEAST_RISE = 0.02  # accuracy that rises by less than this does not rise


def format_farming(streams: Streams) -> Alarm | None:
    """The form of the answers improves, but not the answers."""
    form, accuracy = trend(streams, "reward/format"), trend(streams, "accuracy")
    if not form or not accuracy:
        return None
    if form[1] - form[0] < 0.2 or accuracy[1] - accuracy[0] >= LEAST_RISE:
        return None

    return Alarm(
        "It learns the form, not the task",
        f"Well-formed answers went from {percent(form[0])} to {percent(form[1])}, right answers "
        f"from {percent(accuracy[0])} to {percent(accuracy[1])}.",
        "Lower the reward for form (task.format_reward), or start with easier problems or a "
        "stronger model: if no answer is ever right, only the form can be learned.",
    )


def length_without_success(streams: Streams) -> Alarm | None:
    """Answers get longer, but no more of them are right."""
    length, accuracy = trend(streams, "response_length"), trend(streams, "accuracy")
    if not length or not accuracy or is_graded(streams):
        return None
    if length[1] < 1.5 * length[0] or accuracy[1] - accuracy[0] >= LEAST_RISE:
        return None

    return Alarm(
        "Answers get longer but not better",
        f"Answers grew from {length[0]:.0f} to {length[1]:.0f} tokens, while right answers went "
        f"from {percent(accuracy[0])} to {percent(accuracy[1])}.",
        "Look for padding and loops in the written answers. A loss in which long wrong answers "
        "weigh less than short ones causes this: try algorithm.aggregate token-mean, or the "
        "algorithm dr_grpo.",
    )


def mismatch(streams: Streams) -> Alarm | None:
    """The sampler and the learner give the same tokens different probabilities."""
    gap = mean(last(streams.get("mismatch", ())))
    weight = mean(last(streams.get("correction", ())))
    seen = []
    if gap is not None and gap > 0.05:
        seen.append(
            f"Their log-probabilities of the same tokens are {gap:.2g} nats apart on average."
        )
    if weight is not None and not 0.9 <= weight <= 1.1:
        seen.append(
            f"The weight that corrects for the difference is {weight:.2f} on average; it should be "
            "near 1."
        )
    if not seen:
        return None

    return Alarm(
        "Sampler and learner disagree",
        " ".join(seen),
        "Sample with higher precision, or with the torch sampler, which shares the learner's "
        "weights; or correct for the difference (algorithm.correction truncate).",
    )


def not_finite(streams: Streams) -> Alarm | None:
    """Updates were skipped, or figures were recorded as null, because they were not finite."""
    steps = streams.get("step", ())
    skipped = [
        step for step, count in zip(steps, streams.get("skipped", ()), strict=False) if count > 0
    ]
    null_steps: dict[str, list[float]] = {}
    for key, values in streams.items():
        affected = [step for step, value in zip(steps, values, strict=False) if math.isinf(value)]
        if affected:
            null_steps[key] = affected
    if not skipped and not null_steps:
        return None

    seen = []
    if skipped:
        seen.append(f"{len(skipped)} {'steps' if len(skipped) > 1 else 'step'} skipped updates")
    if null_steps:
        seen.append(f"{', '.join(sorted(null_steps))} could not be written as a number")
    first = min([*skipped, *(step for affected in null_steps.values() for step in affected)])
    return Alarm(
        "Numbers that are not finite",
        f"{' and '.join(seen)}, first in step {first + 1:.0f}.",  # recorded from 0, shown from 1
        "Lower the learning rate or optimizer.grad_clip. A batch that broke training is kept as "
        "broken_batch.pt.",
    )


def endless_repetition(streams: Streams) -> Alarm | None:
    """The model repeats itself: cut answers end in a loop, or most attempts were made before."""
    loops = last(streams.get("rollouts/looping", ()))
    repeats = mean(last(streams.get("behaviour/repeat_rate", ())))
    looping = sum(loops)
    if looping >= 3 and looping >= 0.1 * len(loops):
        seen = (
            f"{looping:.0f} of the last {len(loops)} stored answers were cut at the token limit "
            "while they repeated the same text."
        )
    elif repeats is not None and repeats >= 0.5:
        seen = (
            f"In the last steps {percent(repeats)} of the attempts had already been made in the "
            "same answer."
        )
    else:
        return None

    return Alarm(
        "It repeats itself",
        seen,
        "Lower rollout.max_tokens so that loops cost less, or give long wrong answers more weight "
        "(algorithm.aggregate token-mean).",
    )


def reward_errors(streams: Streams) -> Alarm | None:
    """The grader failed on more than 1 % of the answers; on any, if their number is not known."""
    timeouts, ungraded = total(streams, "grading/timeout"), total(streams, "grading/ungraded")
    raised = total(streams, "reward_errors") - timeouts
    failures = raised + timeouts + ungraded
    answers = max(streams.get("samples/generated", ()), default=0.0)
    if failures <= GRADER_FAILURES * answers:
        return None

    counts = {
        f"raised an error on {raised:.0f} answers": raised,
        f"took too long for {timeouts:.0f}": timeouts,
        f"could not judge {ungraded:.0f}": ungraded,
    }
    listed = ", ".join(text for text, count in counts.items() if count)
    share = f" ({percent(failures / answers)} of all answers)" if answers else ""
    return Alarm(
        "The grader failed",
        f"The reward function {listed}{share}. An answer counts as wrong if grading it raises an "
        "error or takes too long.",
        "Try the task with `tinyzero check-task`. grading.timeout is the time limit per answer.",
    )


CHECKS: dict[str, Callable[[Streams], Alarm | None]] = {
    "reward for form without success": format_farming,
    "longer answers without success": length_without_success,
    "collapse of accuracy": collapse,
    "collapse of entropy": entropy_collapse,
    "groups with equal rewards": equal_groups,
    "disagreement of sampler and learner": mismatch,
    "numbers that are not finite": not_finite,
    "endless repetition": endless_repetition,
    "answers cut off": truncation,
    "a grader that fails": reward_errors,
    "a graded reward without truth": signs.reward_hacking,
    "a graded reward of length": signs.length_takeover,
    "repeated text": signs.repetition_takeover,
    "one answer to everything": signs.majority_takeover,
}
"""The checks, each with what it looks for."""


def find_alarms(streams: Streams) -> list[Alarm]:
    """Every alarm that the columns give. A check that fails is an alarm itself."""
    alarms = []
    for name, check in CHECKS.items():
        try:
            alarm = check(streams)
        except Exception as error:  # records may hold anything, and a page must show the rest
            alarm = Alarm("A check failed", f"The check for {name} raised {brief(error)}.", "")
        if alarm:
            alarms.append(alarm)
    return alarms


def total(streams: Streams, key: str) -> float:
    """The sum of a column's finite numbers."""
    return sum(value for value in streams.get(key, ()) if math.isfinite(value))


def trend(streams: Streams, key: str) -> tuple[float, float] | None:
    """Means of the first and the last fifth of a column, or None if it has fewer than ten."""
    return signs.trend(streams.get(key, ()))
