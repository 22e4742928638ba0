"""The last lines of a finished run: scores before and after, an example, cost, next steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyzero.errors import printable, short_path, typed_path
from tinyzero.run import records

Record = Mapping[str, Any]


def closing_lines(folder: Path, seconds: float) -> list[str]:
    """What to print when the run in `folder` has finished, `seconds` after its command began."""
    steps = list(records.read(folder / "metrics.jsonl"))
    evaluations = list(records.read(folder / "eval.jsonl"))
    tests = [evaluation for evaluation in evaluations if evaluation["split"] == "test"]

    lines: list[str] = []
    if len(tests) > 1:
        lines += _example(folder, tests[0]["step"], tests[-1]["step"])
        lines += ["", _score("before", tests[0]), _score("after", tests[-1])]

    if cost := _cost(steps):
        lines.append(cost)

    total = max(seconds, _recorded_seconds(steps, evaluations))
    return [
        *lines,
        f"{total:.0f} s in total; the run is in {short_path(folder)}",
        "",
        "next:",
        f"  tinyzero report {typed_path(folder)}",
        f"  tinyzero play --web {typed_path(folder)}",
        f"  tinyzero eval {typed_path(folder)}",
    ]


def _recorded_seconds(steps: Sequence[Record], evaluations: Sequence[Record]) -> float:
    """Seconds of the whole run, including the processes before the last one.

    They are the seconds until the last step, and those of the evaluations after it.
    """
    if not steps:
        return 0.0
    last = steps[-1]
    after = [entry["time/evaluate"] for entry in evaluations if entry["step"] == last["step"] + 1]
    return float(last["time/elapsed"] + sum(after))


def _example(folder: Path, first_step: int, last_step: int) -> list[str]:
    """One test problem that was wrong before training and is right now, with both completions."""
    rollouts = list(records.read(folder / "rollouts.jsonl"))
    tested = [rollout for rollout in rollouts if rollout["split"] == "test"]
    before = {rollout["problem"]: rollout for rollout in tested if rollout["step"] == first_step}

    for after in tested:
        earlier = before.get(after["problem"])
        if after["step"] != last_step or earlier is None:
            continue
        if after["reward"] == 1 and earlier["reward"] < 1:
            return [*_completion("before", earlier), *_completion("after", after)]
    return []


def _completion(title: str, rollout: Record) -> list[str]:
    heading = f"--- {title}: {printable(rollout['problem'])}, reward {rollout['reward']:g}"
    return ["", heading, printable(rollout["text"])]


def _score(title: str, evaluation: Record) -> str:
    low, high = evaluation["pass@1/low"], evaluation["pass@1/high"]
    return (
        f"{title:>7}: test pass@1 {evaluation['pass@1']:.3f} [{low:.3f}, {high:.3f}], "
        f"{evaluation['n']} problems"
    )


def _cost(steps: Sequence[Record]) -> str:
    """FLOPs, utilisation, GPU-hours and dollars of the whole run, if they were recorded."""
    last = steps[-1] if steps else {}
    shares = [step["time/utilisation"] for step in steps if "time/utilisation" in step]

    parts: list[str] = []
    if "flops" in last:
        parts.append(f"{last['flops']:.2e} FLOP")
    if shares:
        parts.append(f"{sum(shares) / len(shares):.0%} of the GPU's rate")
    if "time/gpu_hours" in last:
        parts.append(f"{last['time/gpu_hours']:.2f} GPU-hours")
    if "time/dollars" in last:
        parts.append(f"${last['time/dollars']:.2f}")
    return ", ".join(parts)
