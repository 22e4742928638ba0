"""How good is a model: pass@1, pass@k without bias, greedy, each with a 95 % interval, on a held-out split."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinyzero.errors import UserError
from tinyzero.rollouts import Player, Tally
from tinyzero.tasks.base import Task
from tinyzero.types import EvalResult, Group, Problem, Rollout, SamplingParams, Split

EVAL_SEED = 20_250_124  # evaluations of one model agree, whatever run made it


def distinct_problems(task: Task, split: Split, count: int) -> list[Problem]:
    """The first `count` problems of `split` with different ids; all there are if a finite split has fewer.

    Raises UserError if a split without end seems to have fewer, or a finite one has none. It stops
    looking when nothing new was drawn for so long that there is nothing new to be drawn: a last problem
    among n is overlooked with a chance of exp(-10).
    """
    found: dict[str, Problem] = {}
    size, last_new = task.size(split), 0
    for index in range(50 * count if size is None else size):
        problem = task.problem(split, index)
        if problem.id not in found:
            found[problem.id], last_new = problem, index
        elif size is None and index - last_new > 1_000 + 10 * len(found):
            break
        if len(found) == count:
            return list(found.values())
    if size is not None and found:
        return list(found.values())
    raise UserError(
        f"split {split!r} has only {len(found)} distinct problems: ask for no more than that"
    )


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, hold a correct one (Chen et al., 2021, eq. 1)."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def interval(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean of values in [0, 1]; values of one cluster may depend on each other.

    Wilson's interval with as many effective observations as give the cluster-robust variance, so it
    stays within [0, 1] and does not collapse at 0 or 1.
    """
    n, z = len(values), 1.959964
    mean = sum(values) / n
    sums: dict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    variance = sum(s * s for s in sums.values()) / n**2 * len(sums) / max(1, len(sums) - 1)
    known = len(sums) > 1 and variance > 1e-20  # below is rounding
    effective = mean * (1 - mean) / variance if known else float(len(sums))
    centre = (mean + z * z / (2 * effective)) / (1 + z * z / effective)
    half = (
        z
        / (1 + z * z / effective)
        * math.sqrt(mean * (1 - mean) / effective + z * z / (4 * effective**2))
    )
    return max(0.0, min(mean, centre - half)), min(
        1.0, max(mean, centre + half)
    )  # the mean is inside, rounded too


def ks(samples: int) -> list[int]:
    """Powers of two up to `samples`, and `samples` itself."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


def evaluate(
    player: Player,
    *,
    split: Split,
    problems: int,
    params: SamplingParams,
    greedy: bool = False,
    seed: int = EVAL_SEED,
) -> EvalResult:
    """Score `problems` distinct problems of `split` with `params.n` completions each, and greedily if asked.

    `seed` takes the place of `params.seed`. Metrics: n, k, temperature, pass@1 ... pass@k and greedy,
    each with /low and /high and, for each label of the task's `describe`, by label; response_length,
    truncated, malformed, skipped_prompts (problems that do not fit the context), reward parts,
    behaviours, and grading/* counts.

    An answer that could not be graded counts as wrong, so pass@k always has `params.n` answers.
    If rewards are graded, neither right nor wrong, pass@k does not count them, and `graded` is their
    share; `reward` is the figure to look at then, which `caution` says in a line.
    """
    drawn = distinct_problems(player.task, split, problems)
    chosen = [problem for problem in drawn if player.fits(problem, params)]
    if not chosen:
        raise UserError(
            f"no prompt of split {split!r} and an answer of {params.max_tokens} tokens fit into the "
            f"model's context of {player.context}: lower max_tokens"
        )
    labels = [player.task.describe(problem) for problem in chosen]
    tally = Tally()
    groups = player.play(chosen, replace(params, seed=seed), 0, tally)
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
    for k in ks(params.n):
        scores = [pass_at_k(sum(map(is_right, g)), params.n, k) for g in groups]
        metrics |= _with_intervals(f"pass@{k}", scores, chosen, labels)
    if greedy:
        once = replace(params, temperature=0.0, n=1, top_p=1.0, top_k=0)
        best = player.play(chosen, once, 0, tally)
        scores = [float(any(map(is_right, g))) for g in best]
        metrics |= _with_intervals("greedy", scores, chosen, labels)
    metrics |= completion_metrics(player.task, groups)
    metrics |= {"reward_errors": tally.failed, **tally.metrics()}
    metrics["version"] = player.sampler.version
    return EvalResult(metrics, groups)


def shortfall(asked: int, metrics: Mapping[str, Any]) -> str:
    """Why an evaluation looked at fewer problems than were asked for; empty if it did not."""
    n, skipped = metrics["n"], metrics.get("skipped_prompts", 0)
    parts = []
    if n + skipped < asked:
        parts.append(f"split {metrics['split']!r} has only {n + skipped} distinct problems")
    if skipped:
        parts.append(f"{skipped} prompts do not fit into the model's context and were left out")
    return "; ".join(parts)


def caution(metrics: Mapping[str, Any]) -> str:
    """What a reader of pass@k must know of its rewards; empty if there is nothing."""
    parts = []
    if metrics["reward_errors"]:
        parts.append(
            f"the grader failed on {metrics['reward_errors']} completions, which count as wrong"
        )
    if metrics.get("graded"):
        parts.append(
            f"{metrics['graded']:.0%} of the rewards are graded, neither right nor wrong, so pass@k does not "
            f"count them: look at the reward, {metrics['reward']:.3f}"
        )
    return "; ".join(parts)


def is_right(rollout: Rollout) -> bool:
    """Whether the answer is right; a graded one is not."""
    return rollout.reward.right is True


def completion_metrics(task: Task, groups: Sequence[Group]) -> dict[str, float]:
    """What the completions are like: lengths, how they end, reward parts, behaviours."""
    rollouts = [r for g in groups for r in g]
    lengths = [r.completion.length for r in rollouts]
    correct = [is_right(r) for r in rollouts]
    found = {
        "reward": _mean([r.reward.value for r in rollouts]),
        "accuracy": _mean(correct),
        "response_length": _mean(lengths),
        "truncated": _mean([r.completion.finish_reason == "length" for r in rollouts]),
        "malformed": _mean(
            [
                r.completion.finish_reason != "length" and r.reward.parts.get("format", 1.0) == 0
                for r in rollouts
            ]
        ),
    }
    if any(r.reward.right is None for r in rollouts):
        found["graded"] = _mean([r.reward.right is None for r in rollouts])
    for name, wanted in (("right", True), ("wrong", False)):
        chosen = [n for n, c in zip(lengths, correct, strict=True) if c == wanted]
        if chosen:
            found[f"response_length/{name}"] = _mean(chosen)
    for part in sorted({name for r in rollouts for name in r.reward.parts}):
        found[f"reward/{part}"] = _mean([r.reward.parts.get(part, 0.0) for r in rollouts])
    measured = [task.measure(r.problem, r.completion.text) for r in rollouts]
    return found | dict(task.summarise(measured))


def _per_problem(problems: Sequence[Problem], groups: Sequence[Group]) -> dict[str, Any]:
    """What a paired comparison of two evaluations needs, problem by problem.

    `problems` is a fingerprint of the problem ids in order, `right` counts the right completions
    of each problem, and `clusters` numbers the problems' keys by first appearance: problems with
    keys a b a give 0 1 0.
    """
    ids = "\n".join(problem.id for problem in problems)
    fingerprint = hashlib.sha256(ids.encode()).hexdigest()[:16]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(p.key for p in problems))}

    return {
        "problems": fingerprint,
        "right": [sum(map(is_right, group)) for group in groups],
        "clusters": [numbers[problem.key] for problem in problems],
    }


def _with_intervals(
    name: str,
    scores: Sequence[float],
    problems: Sequence[Problem],
    labels: Sequence[Mapping[str, object]],
) -> dict[str, float]:
    """The mean of `scores` with its interval, over all problems and over those of each label."""
    found: dict[str, float] = {}
    groups = {"": list(range(len(scores)))}
    for i, label in enumerate(labels):
        for key, value in label.items():
            groups.setdefault(f"/{key}={value}", []).append(i)
    for suffix, rows in sorted(groups.items()):
        chosen = [scores[i] for i in rows]
        low, high = interval(chosen, [problems[i].key for i in rows])
        found |= {
            f"{name}{suffix}": _mean(chosen),
            f"{name}{suffix}/low": low,
            f"{name}{suffix}/high": high,
        }
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
