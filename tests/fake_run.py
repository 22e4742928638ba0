"""Made-up runs for the report: the files of a run, small enough to be written in milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config
from tinyzero.run import records

PROBLEMS = [([3, 5, 12], 24), ([2, 9, 4], 14), ([7, 4, 25], 53)]
SEARCH = "12*5=60,60+3=63 vs 24 no\n5-3=2,12*2=24 vs 24 yes\n</think>\n<answer>12*(5-3)</answer>"
GUESS = "</think>\n<answer>12+5-3</answer>"


def write(
    folder: Path,
    steps: int = 40,
    every: int = 10,
    columns: dict[str, Callable[[int], float | None]] | None = None,
    text: Callable[[int], str] = lambda step: SEARCH,
    **overrides: Any,
) -> Path:
    """Write a run of `steps` steps that is evaluated on dev after `every` steps.

    `columns` replace metrics by step, and `text` gives the answers by step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # a run records what "auto" became
    changes = {"steps": steps, "eval.every": every, "sampler.name": "torch"}
    settings = config.resolve(config.read_recipe("laptop"), changes | overrides)
    (folder / "config.toml").write_text(config.to_toml(settings))
    for step in range(steps):
        records.append(
            folder / "metrics.jsonl",
            step_record(step, steps) | {k: f(step) for k, f in (columns or {}).items()},
        )
    for step in range(0, steps + 1, every):
        for split in ("test", "dev") if step in (0, steps) else ("dev",):
            records.append(folder / "eval.jsonl", evaluation(step, split, skill(step, steps)))
            for i in range(len(PROBLEMS)):
                records.append(
                    folder / "rollouts.jsonl",
                    rollout(step, split, i, GUESS if step == 0 else text(step)),
                )
        records.append(folder / "rollouts.jsonl", rollout(step, "train", 0, text(step)))
    return folder


def skill(step: int, steps: int) -> float:
    return 0.2 + 0.6 * step / steps


def step_record(step: int, steps: int) -> dict[str, float]:
    """A step's record of a healthy run."""
    right = skill(step, steps)
    return {
        "step": step,
        "reward": 0.1 + 0.9 * right,
        "accuracy": right,
        "reward/format": 0.95,
        "response_length": 30 + 100 * right,
        "response_length/right": 90.5,
        "response_length/wrong": 30.25 + step,
        "truncated": 0.02,
        "malformed": 0.0,
        "entropy": 0.16 - 0.1 * right,
        "grad_norm": 0.1,
        "loss": -0.1,
        "flat_groups": 0.3,
        "skipped": 0.0,
        "reward_errors": 0,
        "behaviour/attempts": 1 + 5 * right,
        "behaviour/repeat_rate": 0.2,
        "samples": 256 * (step + 1),
        "samples/generated": 256 * (step + 1),
        "tokens": 10_000 * (step + 1),
        "tokens/generated": 10_000,
        "time/sample": 2.0,
        "time/step": 2.5,
        "time/elapsed": 20.0 + 2.5 * (step + 1),
        "time/cpu": 2.0 * (step + 1),
        "memory/peak": 2**30,
    }


def evaluation(step: int, split: str, score: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "step": step,
        "split": split,
        "n": 64,
        "k": 1,
        "temperature": 1.0,
        "time/evaluate": 6.0,
    }
    for label, value in {
        "": score,
        "/operators=*/": score / 2,
        "/operators=+-": min(1, 1.2 * score),
    }.items():
        found |= {
            f"pass@1{label}": value,
            f"pass@1{label}/low": value - 0.1,
            f"pass@1{label}/high": min(1, value + 0.1),
        }
    return found | {
        "response_length": 30 + 100 * score,
        "truncated": 0.02,
        "behaviour/attempts": 1 + 5 * score,
    }


def rollout(step: int, split: str, problem: int, text: str, **changes: Any) -> dict[str, Any]:
    numbers, target = PROBLEMS[problem]
    right = text == SEARCH and problem == 0
    return {
        "step": step,
        "split": split,
        "problem": f"{','.join(map(str, sorted(numbers)))}={target}",
        "prompt": f"{target} from {' '.join(map(str, numbers))}\n<think>\n",
        "fields": {"numbers": numbers, "target": target},
        "group": problem,
        "text": text,
        "finish_reason": "stop",
        "response_length": len(text) // 2,
        "reward": 1.0 if right else 0.1,
        "parts": {"answer": float(right), "format": 1.0, "truncated": 0.0},
        "version": step,
    } | changes
