"""Whether runs can be compared, by how much they differ, and in which settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from tinyzero import config as configs
from tinyzero.evaluate import paired_variance
from tinyzero.tools.report.read import Recorded

LEVEL = 0.95
SAME = {
    "task": "the task",
    "split": "the split",
    "n": "the number of problems",
    "problems": "the problems",
    "max_tokens": "the token limit",
    "temperature": "the temperature",
}
"""What must be equal in two evaluations whose scores are compared."""

UNKNOWN = (
    "Whether these scores can be compared cannot be checked: a record of an older version does not "
    "say which problems were evaluated, nor with which token limit."
)


def comparison(runs: Sequence[Recorded], names: Sequence[str]) -> dict[str, Any]:
    """What the page says about several runs together.

    `comparable` is "yes", "no", "unknown", or "" if fewer than two runs have a final score;
    `reason` explains it. `differences` are paired differences from the first scored run. `leaders`
    are the run with the highest score and all runs that cannot be told apart from it. `problems` is
    how many problems were evaluated. `settings` are the configuration keys that differ, with a
    value per run.
    """
    scored = []
    for run, name in zip(runs, names, strict=True):
        evaluations = run.headline_evaluations()
        if len(evaluations) > 1:
            scored.append((name, {**evaluations[-1], "task": run.config.task.name}))

    comparable, reason = check_comparable([final for _, final in scored])
    differences = []
    leaders: list[str] = []
    if comparable == "yes":
        leaders = find_leaders(scored)
        first_name, first = scored[0]
        for name, final in scored[1:]:
            difference = paired_difference(first, final)
            if difference is not None:
                differences.append({"run": name, "to": first_name, **difference})
    return {
        "comparable": comparable,
        "reason": reason,
        "differences": differences,
        "leaders": leaders,
        "problems": scored[0][1]["n"] if comparable == "yes" else None,
        "settings": differing_settings(runs),
    }


def check_comparable(finals: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Whether evaluations had the same problems and limits ("yes", "no", "unknown"), and why not.

    ("", "") if there are fewer than two.
    """
    if len(finals) < 2:
        return "", ""

    differing = {}
    for key in SAME:
        values = list(dict.fromkeys(final[key] for final in finals if key in final))
        if len(values) > 1:
            differing[key] = " or ".join(_written(value) for value in values)
    if "task" in differing or "n" in differing:
        differing.pop("problems", None)  # they are different in any case
    if differing:
        parts = [
            SAME[key] if key == "problems" else f"{SAME[key]} ({values})"
            for key, values in differing.items()
        ]
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
        return "no", (
            f"These scores cannot be compared, because the evaluations differ in {listed}."
        )

    is_known = all("problems" in final and "max_tokens" in final for final in finals)
    return ("yes", "") if is_known else ("unknown", UNKNOWN)


def find_leaders(scored: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The name of the run with the highest score, and of those that cannot be told apart from it.

    A run can be told apart if the 95 % interval of its paired difference excludes zero, corrected
    for as many comparisons as there are other runs (Bonferroni). `scored` are names of runs, each
    with its evaluation.
    """
    best_name, best = max(scored, key=lambda pair: pair[1]["pass@1"])
    leaders = []
    for name, final in scored:
        difference = paired_difference(final, best, comparisons=len(scored) - 1)
        if name == best_name or difference is None or difference["low"] <= 0:
            leaders.append(name)
    return leaders


def paired_difference(
    first: Mapping[str, Any], other: Mapping[str, Any], comparisons: int = 1
) -> dict[str, float] | None:
    """Mean over problems of the accuracy of `other` minus that of `first`, with its 95 % interval.

    The interval is widened so that `comparisons` intervals all hold at once (Bonferroni).

    Both answered the same problems, so problems that are hard for both add nothing to the width.
    None if the records do not hold the right completions per problem.
    """
    keys = ("right", "clusters", "k")
    if any(key not in entry for key in keys for entry in (first, other)):
        return None
    clusters = first["clusters"]
    lengths = {len(clusters), len(first["right"]), len(other["right"])}
    if len(lengths) > 1 or not clusters or min(first["k"], other["k"]) < 1:
        return None

    differences = [
        right / other["k"] - before / first["k"]
        for before, right in zip(first["right"], other["right"], strict=True)
    ]
    if len(set(clusters)) < 2:
        return None

    mean = sum(differences) / len(differences)
    variance, _ = paired_variance(differences, clusters)
    half = NormalDist().inv_cdf(1 - (1 - LEVEL) / comparisons / 2) * math.sqrt(variance)
    return {"value": mean, "low": max(-1.0, mean - half), "high": min(1.0, mean + half)}


def differing_settings(runs: Sequence[Recorded]) -> list[dict[str, Any]]:
    """The keys of config.toml that differ between runs, each with its value in every run."""
    flat = [configs.flat(run.config.model_dump(mode="json", exclude_none=True)) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings if key != "run.dir")
    rows = []
    for key in keys:
        values = [_written(settings.get(key, "–")) for settings in flat]
        if len(set(values)) > 1:
            rows.append({"key": key, "values": values})
    return rows


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
