"""What often goes wrong in such a run, looked for in its streams and said in plain words. Pure functions.

Trends compare the first fifth of the steps with the last one, and need ten steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tinyzero.tools.report.columns import mean

Streams = Mapping[str, Sequence[float]]
"""Columns of metrics.jsonl; those of the stored rollouts are `rollouts/step` and `rollouts/looping`, one entry each."""

ALARMING = 0.01  # share of answers whose grader may fail
FLAT = 0.02  # a rise of accuracy below this is none


class Alarm(NamedTuple):
    """`title` in a few words, `seen` with the figures, `advice` on what to try."""

    title: str
    seen: str
    advice: str


def format_farming(streams: Streams) -> Alarm | None:
    """The form of the answers improves, the answers do not."""
    form, right = trend(streams, "reward/format"), trend(streams, "accuracy")
    if not form or not right or form[1] - form[0] < 0.2 or right[1] - right[0] >= FLAT:
        return None
    return Alarm(
        "It learns the form, not the task",
        f"Well-formed answers went from {percent(form[0])} to {percent(form[1])}, right ones from "
        f"{percent(right[0])} to {percent(right[1])}.",
        "Lower the reward for form (task.format_reward), or start from easier problems or a stronger model: where no "
        "answer is ever right, form is all there is to learn.",
    )


def length_without_success(streams: Streams) -> Alarm | None:
    """Answers grow, and no more of them are right."""
    length, right = trend(streams, "response_length"), trend(streams, "accuracy")
    if not length or not right or length[1] < 1.5 * length[0] or right[1] - right[0] >= FLAT:
        return None
    return Alarm(
        "Longer answers, no better ones",
        f"Answers grew from {length[0]:.0f} to {length[1]:.0f} tokens; right ones went from {percent(right[0])} to "
        f"{percent(right[1])}.",
        "Look at the samples for padding and loops. A loss in which long wrong answers weigh less than short ones "
        "drives this: try algorithm.aggregate token-mean, or the algorithm dr_grpo.",
    )


def entropy_collapse(streams: Streams) -> Alarm | None:
    """The policy has stopped trying anything else while much is still wrong. Steps without a lesson do not count."""
    entropy, flat = streams.get("entropy", ()), streams.get("flat_groups", ())
    taught = flat or [0.0] * len(entropy)
    counted = [value for value, f in zip(entropy, taught, strict=False) if f < 1]
    (start, end), right = (mean(counted[:5]), mean(last(counted))), trend(streams, "accuracy")
    if (
        len(counted) < 10
        or start is None
        or end is None
        or not right
        or end >= 0.1 * start
        or right[1] >= 0.9
    ):
        return None
    return Alarm(
        "It has stopped trying other things",
        f"The entropy of the next token fell from {start:.3g} to {end:.3g} nats while only {percent(right[1])} of the "
        "answers are right.",
        "Lower the learning rate, raise the clip range upwards (algorithm.clip_high), or add an entropy bonus "
        "(algorithm.entropy).",
    )


def equal_groups(streams: Streams) -> Alarm | None:
    """Nearly every group earned the same throughout, so that nothing can be compared."""
    flat, right = (
        mean(last(streams.get("flat_groups", ()))),
        mean(last(streams.get("accuracy", ()))),
    )
    if flat is None or right is None or flat < (0.8 if right < 0.5 else 0.9):
        return None
    easy = right >= 0.5
    return Alarm(
        "Almost nothing left to learn from" if easy else "Almost nothing to learn from",
        f"In the last steps all answers to a problem earned the same in {percent(flat)} of the groups, "
        f"with {percent(right)} of the answers right.",
        "The problems have become too easy: stop here, or pose harder ones."
        if easy
        else "The problems are too hard: pose easier ones, sample more answers a problem (rollout.samples), or start "
        "from a model that solves some of them.",
    )


def mismatch(streams: Streams) -> Alarm | None:
    """The sampler's probabilities are not the learner's, so what is learned from is not what the policy would say."""
    gap, weight = (mean(last(streams.get(key, ()))) for key in ("mismatch", "correction"))
    seen = []
    if gap is not None and gap > 0.05:
        seen.append(
            f"Their log-probabilities of the same tokens are {gap:.2g} nats apart on average."
        )
    if weight is not None and not 0.9 <= weight <= 1.1:
        seen.append(
            f"Tokens are weighed by {weight:.2f} on average to make up for it, which should be near 1."
        )
    if not seen:
        return None
    return Alarm(
        "Sampler and learner disagree",
        " ".join(seen),
        "Sample in a higher precision, or with the torch sampler, which shares the learner's weights; or weigh tokens "
        "for the difference (--algorithm.correction truncate).",
    )


def not_finite(streams: Streams) -> Alarm | None:
    """Updates that were left out, or figures that were written as null."""
    steps = streams.get("step", ())
    skipped = [step for step, n in zip(steps, streams.get("skipped", ()), strict=False) if n > 0]
    null = {
        k: [s for s, v in zip(steps, values, strict=False) if math.isinf(v)]
        for k, values in streams.items()
    }
    keys = sorted(key for key, found in null.items() if found)
    if not skipped and not keys:
        return None
    first = min([*skipped, *(step for key in keys for step in null[key])])
    seen = (
        [f"{len(skipped)} {'steps' if len(skipped) > 1 else 'step'} left out updates"]
        if skipped
        else []
    )
    seen += [f"{', '.join(keys)} could not be written as a number"] if keys else []
    return Alarm(
        "Numbers that are not finite",
        f"{' and '.join(seen)}, first at step {first:.0f}.",
        "Lower the learning rate or optimizer.grad_clip; a batch that broke training is kept as broken_batch.pt.",
    )


def endless_repetition(streams: Streams) -> Alarm | None:
    """The model says the same again and again: cut answers end in a loop, or most attempts were made before."""
    loops, repeats = (
        last(streams.get("rollouts/looping", ())),
        mean(last(streams.get("behaviour/repeat_rate", ()))),
    )
    looping = sum(loops)
    if looping >= 3 and looping >= 0.1 * len(loops):
        seen = f"{looping:.0f} of the last {len(loops)} stored answers were cut while saying the same over and over."
    elif repeats is not None and repeats >= 0.5:
        seen = f"In the last steps {percent(repeats)} of the attempts had been made before in the same answer."
    else:
        return None
    return Alarm(
        "It goes in circles",
        seen,
        "Shorten rollout.max_tokens so that loops cost less, or make long wrong answers weigh more "
        "(algorithm.aggregate token-mean).",
    )


def truncation(streams: Streams) -> Alarm | None:
    """Many answers hit the token limit and count as wrong."""
    cut = mean(last(streams.get("truncated", ())))
    if cut is None or cut < 0.25:
        return None
    return Alarm(
        "Many answers are cut off",
        f"In the last steps {percent(cut)} of the answers reached the token limit and could not finish.",
        "Raise rollout.max_tokens if the samples were on their way; if they loop, see what they repeat.",
    )


def reward_errors(streams: Streams) -> Alarm | None:
    """The grader failed on more than one answer in a hundred; or on any, if it is not known on how many."""
    late, ungraded = total(streams, "grading/timeout"), total(streams, "grading/ungraded")
    raised = total(streams, "reward_errors") - late
    answers = max(streams.get("samples/generated", ()), default=0.0)
    if raised + late + ungraded <= ALARMING * answers:
        return None
    counts = {
        f"raised on {raised:.0f} answers": raised,
        f"took too long for {late:.0f}": late,
        f"could not judge {ungraded:.0f}": ungraded,
    }
    share = f" ({percent((raised + late + ungraded) / answers)} of all)" if answers else ""
    return Alarm(
        "The grader failed",
        f"The reward function {', '.join(text for text, n in counts.items() if n)}{share}. "
        "If it raised or took too long, the answer counts as wrong.",
        "Try the task with `tinyzero check-task`; grading.timeout is the time for one answer.",
    )


CHECKS: dict[str, Callable[[Streams], Alarm | None]] = {
    "form rewarded without success": format_farming,
    "length without success": length_without_success,
    "collapse of entropy": entropy_collapse,
    "groups of equal rewards": equal_groups,
    "sampler and learner disagree": mismatch,
    "numbers that are not finite": not_finite,
    "endless repetition": endless_repetition,
    "answers cut off": truncation,
    "a grader that fails": reward_errors,
}
"""What is looked for, and how."""


def look(streams: Streams) -> list[Alarm]:
    """Every alarm that the streams give."""
    return [alarm for check in CHECKS.values() if (alarm := check(streams))]


def total(streams: Streams, key: str) -> float:
    """The sum of a column's numbers."""
    return sum(value for value in streams.get(key, ()) if math.isfinite(value))


def trend(streams: Streams, key: str) -> tuple[float, float] | None:
    """Means of the first and the last fifth; None where there are fewer than ten numbers."""
    values = [value for value in streams.get(key, ()) if math.isfinite(value)]
    if len(values) < 10:
        return None
    fifth = len(values) // 5
    return sum(values[:fifth]) / fifth, sum(values[-fifth:]) / fifth


def last(values: Sequence[float]) -> Sequence[float]:
    """The last fifth, and at least the last five."""
    return values[-max(5, len(values) // 5) :]


def percent(share: float) -> str:
    """`0.123` as `12 %`; below a hundredth with one decimal."""
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
