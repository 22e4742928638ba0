"""The lines that a finished run ends with: scores before and after, one example, cost, next steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyzero.errors import printable
from tinyzero.run import records

Record = Mapping[str, Any]


def closing_lines(folder: Path, seconds: float) -> list[str]:
    """What to print when the run in `folder` has finished, `seconds` after its command began."""
    evaluations = list(records.read(folder / "eval.jsonl"))
    tests = [evaluation for evaluation in evaluations if evaluation["split"] == "test"]

    lines: list[str] = []
    if len(tests) > 1:
        lines += _example(folder, tests[0]["step"], tests[-1]["step"])
        lines += ["", _score("before", tests[0]), _score("after", tests[-1])]

    if cost := _cost(list(records.read(folder / "metrics.jsonl"))):
        lines.append(cost)

    return [
        *lines,
        f"{seconds:.0f} s in total; the run is in {folder}",
        f"next: tinyzero play {folder}   |   tinyzero eval {folder}",
    ]


def _example(folder: Path, first_step: int, last_step: int) -> list[str]:
    """One test problem that was wrong before training and is right now, with both completions."""
    rollouts = [r for r in records.read(folder / "rollouts.jsonl") if r["split"] == "test"]
    before = {r["problem"]: r for r in rollouts if r["step"] == first_step}

    for after in rollouts:
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
