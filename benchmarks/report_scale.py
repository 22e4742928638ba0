"""How much time and memory does the report of a very long run take?

    python benchmarks/report_scale.py

This writes a run of 5,000 steps with 200,000 stored rollouts, invented but of the form and size of
real ones, then makes its report in a process of its own. The goals are 30 s, 1 GB, and a page of 5
MB.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

from tinyzero import config
from tinyzero.run.glossary import GLOSSARY

GOALS = {"seconds": 30.0, "seconds of CPU": 30.0, "peak memory, GB": 1.0, "page, MB": 5.0}
REPORT = """
import resource, sys
from pathlib import Path
from tinyzero.tools.report.page import write_report
size = write_report([Path(sys.argv[1])], Path(sys.argv[1]) / "report.html")
used = resource.getrusage(resource.RUSAGE_SELF)
unit = 1 if sys.platform == "darwin" else 1024
print(size, used.ru_maxrss * unit, used.ru_utime + used.ru_stime)
"""


def write_run(folder: Path, steps: int, rollouts: int) -> None:
    """Write the records of a run whose accuracy and answers grow."""
    rng = random.Random(0)
    recipe = config.resolve(
        config.read_recipe(config.DEFAULT_RECIPE),
        {"steps": steps, "run.rollouts_every": 1, "run.rollouts": rollouts // steps},
    )
    (folder / "config.toml").write_text(config.to_toml(recipe))
    keys = [key for key in GLOSSARY if "*" not in key]
    keys += [f"time/{part}" for part in ("sample", "annotate", "update")] + [
        "reward/answer",
        "reward/format",
    ]

    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(steps):
            record = {key: rng.random() for key in keys} | {
                "step": step,
                "accuracy": skill(step, steps),
            }
            counts = {
                "samples": 256 * (step + 1),
                "samples/generated": 256 * (step + 1),
                "tokens/generated": 40_000,
            }
            record |= counts | {
                "time/elapsed": 6.0 * (step + 1),
                "time/step": 6.0,
                "skipped": 0.0,
                "reward_errors": 0,
            }
            file.write(json.dumps(record) + "\n")

    with (folder / "eval.jsonl").open("w") as file:
        for step in range(0, steps + 1, 25):
            for split in ("dev", "test") if step in (0, steps) else ("dev",):
                file.write(json.dumps(evaluation(step, split, skill(step, steps))) + "\n")

    with (folder / "rollouts.jsonl").open("w") as file:
        for step in range(steps):
            for record in stored(rng, step, steps, rollouts // steps):
                file.write(json.dumps(record) + "\n")


def skill(step: int, steps: int) -> float:
    """The invented accuracy at a step."""
    return 0.15 + 0.8 * (1 - math.exp(-6 * step / steps))


def evaluation(step: int, split: str, score: float) -> dict[str, Any]:
    """One record of eval.jsonl."""
    parts = {
        "": score,
        "/numbers=3": score,
        "/operators=+-": min(1.0, score * 1.1),
        "/operators=*/": score * 0.8,
    }

    bounds = {
        f"pass@1{name}{end}": v
        for name, v in parts.items()
        for end, v in zip(("", "/low", "/high"), (v, v, v), strict=True)
    }
    about = {
        "step": step,
        "split": split,
        "n": 1024,
        "k": 1,
        "temperature": 1.0,
        "time/evaluate": 9.0,
    }
    return about | bounds | {"response_length": 150.0, "behaviour/attempts": 5.0}


def stored(rng: random.Random, step: int, steps: int, count: int) -> Iterator[dict[str, Any]]:
    """The stored rollouts of one step; every 25th step begins with eight problems from dev."""
    evaluated = step % 25 == 0
    for i in range(count):
        split = "dev" if evaluated and i < 8 else "train"
        draw = random.Random(i) if split == "dev" else rng
        numbers = [draw.randint(1, 25) for _ in range(3)]
        a, b, c = numbers
        target = a + b + c

        right = rng.random() < skill(step, steps)
        tries = 1 + int(rng.random() * 2 * 40 * (0.2 + step / steps))
        lines = [f"{a}*{b}={a * b},{a * b}-{c}={a * b - c} vs {target} no" for _ in range(tries)]
        # Without a "yes", the report has to search the whole text for one.
        lines += [f"{a}+{b}={a + b},{a + b}+{c}={target}"] if right else []

        answer = f"{a}+{b}+{c}" if right else f"{a}*{b}-{c}"
        yield {
            "step": step,
            "split": split,
            "problem": f"{','.join(map(str, sorted(numbers)))}={target}",
            "prompt": f"{target} from {a} {b} {c}\n<think>\n",
            "fields": {"numbers": numbers, "target": target},
            "group": i,
            "text": "\n".join([*lines, "</think>", f"<answer>{answer}</answer>"]),
            "finish_reason": "stop",
            "response_length": 20 * len(lines),
            "reward": 1.0 if right else 0.1,
            "parts": {"answer": float(right), "format": 1.0, "truncated": 0.0},
            "version": step,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--rollouts", type=int, default=200_000)
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_run(folder, given.steps, given.rollouts)
        size = sum(path.stat().st_size for path in folder.iterdir())
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", REPORT, temporary], check=True, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began

    page, memory, cpu = map(float, done.stdout.split())
    measured = {
        "seconds": seconds,
        "seconds of CPU": cpu,
        "peak memory, GB": memory / 1e9,
        "page, MB": page / 1e6,
    }

    rows = [[name, f"{measured[name]:.2f}", f"under {goal:g}"] for name, goal in GOALS.items()]
    text = (
        f"The report of a run of {given.steps:,} steps with {given.rollouts:,} stored rollouts, "
        f"{size / 1e6:.0f} MB of records, including the start of its process.\n\n"
        + common.table(["", "measured", "goal"], rows)
    )
    common.write(
        "report_scale",
        common.describe([1], "pydantic"),
        measured | {"records, MB": size / 1e6},
        text,
    )


if __name__ == "__main__":
    main()
