"""How good a model is on held-out problems: pass@1, pass@k and greedy, with 95 % intervals."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinyzero.errors import UserError
from tinyzero.rollouts import Player, Tally
from tinyzero.tasks.base import Task
from tinyzero.tasks.shares import Shares
from tinyzero.types import EvalResult, Group, Problem, Rollout, SamplingParams, Split

EVAL_SEED = 20_250_124  # fixed, so that evaluations of one model agree whatever run made it

Z_95 = 1.959964  # standard normal quantile of a two-sided 95 % interval


def distinct_problems(task: Task, split: Split, count: int) -> list[Problem]:
    """The first `count` problems of `split` with different ids, or all if a finite split has fewer.

    A mixture's problems are divided between its tasks by weight, and come task by task.

    Raises UserError if a finite split has no problems, or an endless one seems to have fewer. The
    search in an endless split ends when no new problem has come for a long time: if the split has n
    problems, the chance of missing the last one is exp(-10).
    """
    if task.mixture:
        return _distinct_of_each(task, split, count)

    problems: dict[str, Problem] = {}
    size, last_new_index = task.size(split), 0

    for index in range(50 * count if size is None else size):
        problem = task.problem(split, index)
        if problem.id not in problems:
            problems[problem.id] = problem
            last_new_index = index
        elif size is None and index - last_new_index > 1_000 + 10 * len(problems):
            break
        if len(problems) == count:
            return list(problems.values())

    if size is not None and problems:
        return list(problems.values())
    raise UserError(
        f"split {split!r} has only {len(problems)} distinct problems: ask for no more than that"
    )


def _distinct_of_each(mixture: Task, split: Split, count: int) -> list[Problem]:
    """Distinct problems of each task of a mixture, in its share of `count`."""
    shares = Shares({name: part.weight for name, part in mixture.mixture.items()})
    problems: list[Problem] = []
    for name, quota in shares.quotas(0, count).items():
        if quota:
            drawn = distinct_problems(mixture.mixture[name].task, split, quota)
            problems += [replace(problem, task=name) for problem in drawn]
    return problems


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Probability that at least one of k completions is right (Chen et al., 2021, equation 1).

    `correct` of `samples` completions were right, and k of them are drawn without replacement.

    >>> pass_at_k(correct=1, samples=4, k=2)
    0.5
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def interval(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean of `values` in [0, 1]; values of one cluster may be dependent.

    It is Wilson's interval with the number of independent observations that gives the
    cluster-robust variance. So it stays within [0, 1] and does not collapse at 0 or 1.

    >>> low, high = interval([1.0, 0.0, 0.0, 0.0], ["a", "b", "c", "d"])
    >>> round(low, 2), round(high, 2)
    (0.04, 0.74)
    """
    count, mean = len(values), sum(values) / len(values)
    sums = _cluster_sums(values, clusters)
    squares = sum(total * total for total in sums)
    variance = squares / count**2 * len(sums) / max(1, len(sums) - 1)

    is_known = len(sums) > 1 and variance > 1e-20  # anything below is rounding
    n = mean * (1 - mean) / variance if is_known else float(len(sums))

    # Wilson, 1927, with n independent observations
    centre = (mean + Z_95 * Z_95 / (2 * n)) / (1 + Z_95 * Z_95 / n)
    spread = math.sqrt(mean * (1 - mean) / n + Z_95 * Z_95 / (4 * n**2))
    half = Z_95 / (1 + Z_95 * Z_95 / n) * spread

    # rounding must not leave the mean outside
    low = max(0.0, min(mean, centre - half))
    high = min(1.0, max(mean, centre + half))
    return low, high


def paired_variance(
    differences: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[float, int]:
    """The cluster-robust variance of the mean of paired differences, and its number of clusters.

    There is one difference per problem; those of one cluster may be dependent. Two invented
    clusters are added, one won and one lost (Agresti and Min, 2005), so that equal results on a few
    problems do not give an interval without width.

    >>> variance, count = paired_variance([0.0, 0.0], ["a", "b"])
    >>> round(variance, 3), count
    (0.167, 4)
    """
    sums = _cluster_sums(differences, clusters)
    cluster_size = len(differences) / len(sums)
    sums += [cluster_size, -cluster_size]

    count = len(sums)
    squares = sum(total * total for total in sums)
    return squares / (count * cluster_size) ** 2 * count / (count - 1), count


def _cluster_sums(values: Sequence[float], clusters: Sequence[Hashable]) -> list[float]:
    """The deviations from the mean of all values, summed per cluster."""
    mean = sum(values) / len(values)
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    return list(sums.values())


def ks(samples: int) -> list[int]:
    """The k of pass@k to report: powers of two up to `samples`, and `samples` itself.

    >>> ks(6)
    [1, 2, 4, 6]
    """
    powers = {2**i for i in range(samples.bit_length()) if 2**i <= samples}
    return sorted(powers | {samples})


def evaluate(
    player: Player,
    *,
    split: Split,
    problems: int,
    params: SamplingParams,
    greedy: bool = False,
    seed: int = EVAL_SEED,
    progress: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Score `problems` distinct problems of `split`, with `params.n` completions per problem.

    With `greedy`, the most likely completion of each is scored too. `seed` replaces `params.seed`.
    `progress(answered, problems)` is called at the start with 0 and then after each problem.

    Metrics: n, k, temperature, pass@1 ... pass@k and greedy, each with /low and /high, and each
    also per label of the task's `describe`; response_length, truncated, malformed, skipped_prompts
    (problems that do not fit the context), the parts of the reward, behaviours, and grading/*
    counts. A paired comparison of two evaluations needs `problems`, `right` and `clusters`.

    An answer that could not be graded counts as wrong, so pass@k always uses `params.n` answers.
    Rewards that are neither right nor wrong do not count for pass@k. `graded` is their share; if it
    is not 0, look at `reward` instead. `caution` puts that into words.
    """
    drawn = distinct_problems(player.task, split, problems)
    chosen = [problem for problem in drawn if player.fits(problem, params)]
    if not chosen:
        raise UserError(
            f"no prompt of split {split!r} and an answer of {params.max_tokens} tokens fit into "
            f"the model's context of {player.context}: lower max_tokens"
        )

    tally = Tally()
    sampled = _counter(len(chosen), 2 if greedy else 1, progress)
    groups = player.play(chosen, replace(params, seed=seed), 0, tally, sampled)
    if not any(groups):
        raise UserError(
            f"none of {tally.ungraded} answers could be graded, first: {tally.first_error}"
        )

    metrics: dict[str, Any] = {
        "split": split,
        "n": len(chosen),
        "skipped_prompts": len(drawn) - len(chosen),
        "k": params.n,
        "temperature": params.temperature,
        "max_tokens": params.max_tokens,
        **_per_problem(chosen, groups),
    }

    metrics |= pass_metrics(player.task, chosen, groups, params.n)
    if greedy:
        labels = [player.task.describe(problem) for problem in chosen]
        most_likely = replace(params, temperature=0.0, n=1, top_p=1.0, top_k=0)
        best = player.play(chosen, most_likely, 0, tally, sampled)
        scores = [float(_count_right(group)) for group in best]
        metrics |= _with_intervals("greedy", scores, chosen, labels)

    metrics |= completion_metrics(player.task, groups)
    metrics |= {"reward_errors": tally.failed, **tally.metrics()}
    metrics["version"] = player.sampler.version
    return EvalResult(metrics, groups)


def pass_metrics(
    task: Task, problems: Sequence[Problem], groups: Sequence[Group], samples: int
) -> dict[str, float]:
    """pass@1 to pass@`samples`, with /low and /high, over all problems and those of each label.

    `groups` holds the rollouts of each problem. One that is missing counts as wrong.
    """
    labels = [task.describe(problem) for problem in problems]
    metrics: dict[str, float] = {}

    for k in ks(samples):
        scores = [pass_at_k(_count_right(group), samples, k) for group in groups]
        metrics |= _with_intervals(f"pass@{k}", scores, problems, labels)
    return metrics


def shortfall(asked: int, metrics: Mapping[str, Any]) -> str:
    """Why an evaluation used fewer problems than the `asked` ones; empty if it did not."""
    n, skipped = metrics["n"], metrics.get("skipped_prompts", 0)
    parts = []
    if n + skipped < asked:
        parts.append(f"split {metrics['split']!r} has only {n + skipped} distinct problems")
    if skipped:
        parts.append(f"{skipped} prompts do not fit into the model's context and were left out")
    return "; ".join(parts)


def caution(metrics: Mapping[str, Any]) -> str:
    """What a reader of pass@k must know about its rewards; empty if there is nothing."""
    parts = []
    if metrics["reward_errors"]:
        parts.append(
            f"the grader failed on {metrics['reward_errors']} completions, which count as wrong"
        )
    if metrics.get("graded"):
        parts.append(
            f"{metrics['graded']:.0%} of the rewards are graded, neither right nor wrong, so "
            f"pass@k does not count them: look at the reward, {metrics['reward']:.3f}"
        )
    return "; ".join(parts)


def is_right(rollout: Rollout) -> bool:
    """Whether the answer is right; a graded one, neither right nor wrong, is not."""
    return rollout.reward.right is True


def completion_metrics(task: Task, groups: Sequence[Group]) -> dict[str, float]:
    """What the completions are like: rewards and their parts, lengths, how they end, behaviours.

    Figures that do not apply are left out, such as `malformed` if no reward has a part `format`.
    """
    rollouts = [rollout for group in groups for rollout in group]
    lengths = [rollout.completion.length for rollout in rollouts]
    right = [is_right(rollout) for rollout in rollouts]
    parts = sorted({name for rollout in rollouts for name in rollout.reward.parts})

    metrics = {
        "reward": _mean([rollout.reward.value for rollout in rollouts]),
        "accuracy": _mean(right),
        "response_length": _mean(lengths),
        "truncated": _mean([_is_truncated(rollout) for rollout in rollouts]),
    }
    if "format" in parts:
        metrics["malformed"] = _mean([_is_malformed(rollout) for rollout in rollouts])
    if any(rollout.reward.right is None for rollout in rollouts):
        metrics["graded"] = _mean([rollout.reward.right is None for rollout in rollouts])

    for name, wanted in (("right", True), ("wrong", False)):
        chosen = [length for length, is_ in zip(lengths, right, strict=True) if is_ == wanted]
        if chosen:
            metrics[f"response_length/{name}"] = _mean(chosen)
    for part in parts:
        values = [rollout.reward.parts.get(part, 0.0) for rollout in rollouts]
        metrics[f"reward/{part}"] = _mean(values)

    if task.plays_episodes:
        metrics["turns"] = _mean([_count_turns(rollout) for rollout in rollouts])
        metrics["environment_tokens"] = _mean(
            [rollout.completion.environment_length for rollout in rollouts]
        )

    measured = [
        task.measure(rollout.problem, rollout.completion.transcript) for rollout in rollouts
    ]
    metrics |= dict(task.summarise(measured))
    return metrics | _metrics_per_task(task, groups)


def _metrics_per_task(mixture: Task, groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, accuracy with its interval, lengths and the number of groups, for each task.

    Nothing for a task that is not a mixture.
    """
    metrics: dict[str, float] = {}
    for name in mixture.mixture:
        own = [group for group in groups if group and group[0].problem.task == name]
        metrics[f"groups/task={name}"] = len(own)
        rollouts = [rollout for group in own for rollout in group]
        if not rollouts:
            continue

        right = [float(is_right(rollout)) for rollout in rollouts]
        lengths = [rollout.completion.length for rollout in rollouts]
        low, high = interval(right, [rollout.problem.key for rollout in rollouts])
        metrics |= {
            f"reward/task={name}": _mean([rollout.reward.value for rollout in rollouts]),
            f"accuracy/task={name}": _mean(right),
            f"accuracy/task={name}/low": low,
            f"accuracy/task={name}/high": high,
            f"truncated/task={name}": _mean([_is_truncated(rollout) for rollout in rollouts]),
            f"response_length/task={name}": _mean(lengths),
        }
    return metrics


def _count_turns(rollout: Rollout) -> int:
    """How many turns the model had."""
    return sum(turn.by_model for turn in rollout.completion.turns) or 1


def _is_truncated(rollout: Rollout) -> bool:
    return rollout.completion.finish_reason == "length"


def _is_malformed(rollout: Rollout) -> bool:
    """Whether the completion ended by itself, but without an answer that can be judged."""
    return not _is_truncated(rollout) and rollout.reward.parts.get("format", 1.0) == 0


def _count_right(group: Group) -> int:
    return sum(is_right(rollout) for rollout in group)


def _counter(
    problems: int, passes: int, progress: Callable[[int, int], None] | None
) -> Callable[[], None] | None:
    """What to call after each problem of each pass; it tells `progress` of all passes as one."""
    if progress is None:
        return None
    answered = 0
    progress(0, problems)

    def sampled() -> None:
        nonlocal answered
        answered += 1
        if answered % passes == 0:
            progress(answered // passes, problems)

    return sampled


def _per_problem(problems: Sequence[Problem], groups: Sequence[Group]) -> dict[str, Any]:
    """What a paired comparison of two evaluations needs, problem by problem.

    `problems` is a fingerprint of the problem ids in order, `right` counts the right completions
    of each problem, and `clusters` numbers the problems' keys by first appearance: problems with
    keys a b a give 0 1 0.
    """
    ids = "\n".join(problem.id for problem in problems)
    fingerprint = hashlib.sha256(ids.encode()).hexdigest()[:16]
    keys = dict.fromkeys(problem.key for problem in problems)
    numbers = {key: number for number, key in enumerate(keys)}

    return {
        "problems": fingerprint,
        "right": [_count_right(group) for group in groups],
        "clusters": [numbers[problem.key] for problem in problems],
    }


def _with_intervals(
    name: str,
    scores: Sequence[float],
    problems: Sequence[Problem],
    labels: Sequence[Mapping[str, object]],
) -> dict[str, float]:
    """The mean of `scores` with its interval, over all problems and over those of each label."""
    rows_by_suffix = {"": list(range(len(scores)))}
    for row, label in enumerate(labels):
        for key, value in label.items():
            rows_by_suffix.setdefault(f"/{key}={value}", []).append(row)

    metrics: dict[str, float] = {}
    for suffix, rows in sorted(rows_by_suffix.items()):
        chosen = [scores[row] for row in rows]
        low, high = interval(chosen, [problems[row].key for row in rows])
        metrics |= {
            f"{name}{suffix}": _mean(chosen),
            f"{name}{suffix}/low": low,
            f"{name}{suffix}/high": high,
        }
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
