"""How far `tinyzero plan` is off on this CPU: plan, five measured steps, and real runs.

    python benchmarks/plan_cpu.py

Each recipe takes STEPS real steps with one thread, as `tinyzero plan --measure` does. The rounds
are interleaved, so that other work on the machine slows all recipes alike. Times are CPU seconds of
the process, which other work affects less than wall-clock time.

The first table compares the measured steps with the plan for exactly their tokens. The second
compares whole runs as planned, and as planned after the measurement, with the CPU minutes that
finished runs took (ablations/results). Those ran on another machine.
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any, NamedTuple

import common

from tinyzero.algorithms import load_algorithm
from tinyzero.config import Config, read_recipe, resolve
from tinyzero.cost.devices import CPU
from tinyzero.cost.shapes import find_shape
from tinyzero.tools.plan import measure
from tinyzero.tools.plan.survey import planner_for

ROUNDS = 2
RECORDED = Path(__file__).parent.parent / "ablations" / "results"


class Case(NamedTuple):
    """A recipe, and the finished runs that it is compared with."""

    file: str
    choice: str
    length: float
    """Mean tokens per answer over those runs."""


CASES = {
    "laptop": Case("algorithms.json", "grpo", 141),
    "laptop-countdown-ppo": Case("algorithms.json", "ppo", 141),
    "laptop-countdown-prime": Case("algorithms.json", "prime", 136),
    "multiplication": Case("multiplication.json", "grpo", 61),
}


def main() -> None:
    """Measure every recipe, print both tables and write them to results/."""
    steps: dict[str, list[measure.Step]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name in CASES:
            steps[name] += measured(config_of(name))

    results = {name: result(name, steps[name]) for name in CASES}
    common.write(
        "plan_cpu", common.describe([1], "torch", "transformers"), results, tables(results)
    )


def config_of(name: str) -> Config:
    """The recipe on the CPU with one thread."""
    return resolve(read_recipe(name), {"model.threads": 1, "model.device": "cpu"})


def measured(config: Config) -> list[measure.Step]:
    """The steps after the first, with CPU seconds in place of the time that passed."""
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    steps = measure.measured_steps(config, algorithm)[1:]
    return [
        step._replace(
            sampling=step.cpu * step.sampling / step.seconds,
            learning=step.cpu * step.learning / step.seconds,
        )
        for step in steps
    ]


def result(name: str, steps: list[measure.Step]) -> dict[str, Any]:
    """Measured and planned CPU seconds per step, and planned, corrected and recorded minutes."""
    config, case = config_of(name), CASES[name]
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    shape = find_shape(config.model.name)
    warm_up = steps[:1]  # `compare` leaves out the first of what it is given
    correction = measure.compare([*warm_up, *steps], config, algorithm, shape, CPU)

    runs = json.loads((RECORDED / case.file).read_text())["results"][case.choice]
    minutes = [seed["CPU minutes"] for seed in runs["seeds"].values()]
    plan = planner_for(None)(config, CPU)
    at_length = planner_for(case.length)(config, CPU)

    return {
        "lengths": [step.load.length for step in steps],
        "measured": correction.seconds,
        "planned": correction.planned,
        "sampling": correction.sampling,
        "learning": correction.learning,
        "plan minutes": 60 * plan.hours,
        "corrected minutes": 60 * measure.corrected(plan, correction).hours,
        "corrected minutes at the real length": (
            60 * measure.corrected(at_length, correction).hours
        ),
        "recorded minutes": minutes,
    }


def tables(results: dict[str, dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    steps = common.table(
        ["recipe", "tokens per answer", "measured, s per step", "planned", "plan / measured"],
        [
            [
                name,
                f"{min(case['lengths']):.0f} to {max(case['lengths']):.0f}",
                f"{case['measured']:.2f}",
                f"{case['planned']:.2f}",
                f"{case['planned'] / case['measured']:.2f}",
            ]
            for name, case in results.items()
        ],
    )
    runs = common.table(
        [
            "recipe",
            "recorded runs, CPU minutes",
            "plan",
            "with --measure",
            "with --measure and the real length",
        ],
        [
            [
                name,
                f"{min(case['recorded minutes']):.1f} to {max(case['recorded minutes']):.1f}",
                f"{case['plan minutes']:.1f}",
                f"{case['corrected minutes']:.1f}",
                f"{case['corrected minutes at the real length']:.1f}",
            ]
            for name, case in results.items()
        ],
    )
    return f"One step, in CPU seconds of one thread:\n\n{steps}\n\nWhole runs:\n\n{runs}"


if __name__ == "__main__":
    main()
