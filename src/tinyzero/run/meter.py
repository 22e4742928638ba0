"""What a run has cost so far and will have cost at its end, for the record of each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyzero.algorithms import Algorithm
from tinyzero.config import Config
from tinyzero.cost.devices import device_named
from tinyzero.cost.shapes import Shape
from tinyzero.cost.simulator import step_flops


class Meter:
    """Counts the cost of a run: FLOPs, GPU-hours, dollars, and the share of the GPU's peak rate."""

    def __init__(
        self, config: Config, algorithm: Algorithm, shape: Shape | None, device: str | None
    ) -> None:
        """With `shape` None no FLOPs are counted. `device` is the name of a GPU, None on a CPU."""
        self.config, self.algorithm, self.shape = config, algorithm, shape
        self.on_gpu = device is not None
        known_device = device_named(device or "")
        self.rate = known_device.rates.get(config.model.dtype) if known_device else None
        self.flops = 0.0
        self.grading_dollars = 0.0

    def step(
        self,
        sampled: float,
        scored: float,
        learned: float,
        length: float,
        *,
        seconds: float,
        elapsed: float,
        left: float,
        done: int,
        grading_dollars: float = 0.0,
    ) -> dict[str, float]:
        """The entries of one step in the record, by key.

        `sampled`, `scored`, `learned` (tokens) and `length` (tokens per sequence) are those of
        `step_flops`. `seconds` is the time of the step, `elapsed` that of the run so far and `left`
        that to its end. `done` is the number of finished steps, and `grading_dollars` what a judge
        was paid in this one.
        """
        entries: dict[str, float] = {}
        if self.shape is not None:
            flops = step_flops(
                self.config, self.algorithm, self.shape, sampled, scored, learned, length
            )
            self.flops += flops
            entries |= {
                "flops": self.flops,
                "time/flops_total": self.flops / done * self.config.steps,
            }
            if self.rate:
                entries["time/utilisation"] = flops / (self.rate * seconds)

        so_far, in_the_end = elapsed / 3600, (elapsed + left) / 3600
        if self.on_gpu:
            entries |= {"time/gpu_hours": so_far, "time/gpu_hours_total": in_the_end}
        self.grading_dollars += grading_dollars
        judged = self.grading_dollars
        judged_in_the_end = judged / done * self.config.steps
        price = self.config.run.price
        if price or judged:
            entries |= {
                "time/dollars": price * so_far + judged,
                "time/dollars_total": price * in_the_end + judged_in_the_end,
            }
        return entries


def dollars_of(record: Mapping[str, Any]) -> float:
    """What grading cost according to the record of a step: its keys that end in /dollars.

    >>> dollars_of({"judge/dollars": 0.5, "time/dollars": 3.0})
    0.5
    """
    ours = [key for key in record if key.endswith("/dollars") and key != "time/dollars"]
    return sum(record[key] or 0.0 for key in ours)
