"""What a run has cost so far, and will have cost at its end, for the record of each step."""

from __future__ import annotations

from tinyzero.algorithms import Algorithm
from tinyzero.config import Config
from tinyzero.cost.devices import device_named
from tinyzero.cost.shapes import Shape
from tinyzero.cost.simulator import step_flops


class Meter:
    """What a run has cost: FLOPs, dollars, and the share of the device's rate that it reached."""

    def __init__(
        self, config: Config, algorithm: Algorithm, shape: Shape | None, device: str | None
    ) -> None:
        """`shape` None counts no FLOPs; `device` is a GPU's name, None for a CPU."""
        self.config, self.algorithm, self.shape = config, algorithm, shape
        self.on_gpu, known = device is not None, device_named(device or "")
        self.rate = known.rates.get(config.model.dtype) if known else None
        self.flops = 0.0

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
    ) -> dict[str, float]:
        """A step's entries in the record: of tokens as `step_flops` has them, of the seconds of the step, of the run so
        far, and to its end, and of the steps that are done."""
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
        if price := self.config.run.price:
            entries |= {"time/dollars": price * so_far, "time/dollars_total": price * in_the_end}
        return entries
