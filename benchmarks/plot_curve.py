"""Draw runs of one recipe: accuracy, attempts and length, with mean and range over seeds.

pip install matplotlib
python benchmarks/plot_curve.py docs/laptop-curve.png runs/laptop-grpo-*
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from tinyzero.run import records

PANELS = {
    "accuracy": "accuracy of the step's answers",
    "behaviour/attempts": "attempts per problem",
    "response_length": "tokens per problem",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture")
    parser.add_argument("runs", nargs="+")
    given = parser.parse_args()

    runs = [list(records.read(Path(run) / "metrics.jsonl")) for run in given.runs]
    tests = [
        [e for e in records.read(Path(run) / "eval.jsonl") if e["split"] == "test"]
        for run in given.runs
    ]

    steps = min(len(run) for run in runs)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        curves = np.array([[e[key] for e in run[:steps]] for run in runs])
        smooth = np.array(
            [np.convolve(np.pad(c, 2, mode="edge"), np.ones(5) / 5, mode="valid") for c in curves]
        )
        axis.fill_between(
            range(1, steps + 1), smooth.min(0), smooth.max(0), alpha=0.25, linewidth=0
        )
        axis.plot(range(1, steps + 1), smooth.mean(0), label="training, mean and range over seeds")
        axis.set(title=title, xlabel="step", ylim=(0, 1) if key == "accuracy" else (0, None))
        axis.grid(alpha=0.3)

    for run in tests:
        axes[0].errorbar(
            [e["step"] for e in run],
            [e["pass@1"] for e in run],
            yerr=[
                [e["pass@1"] - e["pass@1/low"] for e in run],
                [e["pass@1/high"] - e["pass@1"] for e in run],
            ],
            fmt="o",
            markersize=3,
            color="black",
            label="1,024 held-out problems" if run is tests[0] else None,
        )

    axes[0].legend(loc="lower right", fontsize=7)
    figure.savefig(given.picture, dpi=130)


if __name__ == "__main__":
    main()
