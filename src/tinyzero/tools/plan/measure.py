"""Five real steps of a recipe on this machine, and the plan corrected by them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from tinyzero import models
from tinyzero.algorithms import Algorithm
from tinyzero.config import Config
from tinyzero.cost.devices import CPU, Device, device_named, host_memory
from tinyzero.cost.shapes import Shape
from tinyzero.cost.simulator import OTHERWISE, Load, Plan, step_load, step_parts
from tinyzero.errors import Interrupted, UserError
from tinyzero.run.parts import Run, opened

STEPS = 5
"""Steps that are run. The first warms up and is not counted."""

SAMPLING = ("prefill", "decode", "grade")
"""The parts of a planned step that a run records as time/sample."""

BUSY = 0.8
"""A run on a CPU shares it with other work if it is computing for less than this share of time."""


class Step(NamedTuple):
    """One measured step: what it sampled and learned from, and what it took."""

    load: Load
    sampling: float
    """Seconds of sampling and grading."""
    learning: float
    """Seconds of everything else."""
    cpu: float
    """Seconds of the processor that this process had, all threads together."""

    @property
    def seconds(self) -> float:
        """Seconds of the whole step."""
        return self.sampling + self.learning


class Correction(NamedTuple):
    """How measured steps compare with what was planned for exactly their tokens."""

    steps: int
    lengths: tuple[float, float]
    """Mean tokens per answer in the first and the last measured step."""
    seconds: float
    """Measured seconds per step."""
    planned: float
    """Planned seconds per step, for the same tokens."""
    sampling: float
    """Measured time of sampling, as a multiple of the planned one."""
    learning: float
    """Measured time of the rest, as a multiple of the planned one."""
    share: float
    """Processor time as a share of the time that passed."""
    on_cpu: bool

    @property
    def busy(self) -> bool:
        """Whether other programs slowed the measurement down."""
        return self.on_cpu and self.share < BUSY


def this_device(config: Config, described: Device | None = None) -> Device:
    """The device of this machine that the recipe would run on; `described` if that is a GPU.

    Raises UserError for a GPU that is neither described nor in the table.
    """
    where = models.pick_device(config.model.device)
    if where == "cpu":
        if described:
            raise UserError("this recipe runs on the CPU here: leave out --gpu-memory and the like")
        return replace(CPU, name="this machine's CPU", memory=host_memory())

    name = torch.cuda.get_device_name(where)
    device = described or device_named(name)
    if device is None:
        raise UserError(
            f"this GPU, {name}, is not in the table: describe it with --gpu-memory, "
            "--gpu-bandwidth and --gpu-tflops"
        )
    return device


def measured_steps(config: Config, algorithm: Algorithm) -> list[Step]:
    """Run STEPS steps of the recipe in a temporary folder, without evaluations or checkpoints.

    The first Ctrl-C ends the measurement after the current step, and at least two steps make a
    result. Raises Interrupted if there are fewer, or after a second Ctrl-C.
    """
    trial = config.model_copy(
        update={
            "steps": STEPS,
            "eval": config.eval.model_copy(update={"every": 0, "test_problems": 0}),
            "checkpoint": config.checkpoint.model_copy(update={"every": 0}),
            "run": config.run.model_copy(update={"track": "", "rollouts_every": 0}),
        }
    )
    steps: list[Step] = []
    interrupted = False

    with (
        TemporaryDirectory(prefix="tinyzero-plan-") as folder,
        opened(trial, Path(folder) / "run") as run,
    ):
        try:
            while len(steps) < STEPS and not run.stopping:
                steps.append(take_step(run, algorithm, len(steps)))
        except Interrupted:  # caught here, because nothing of this run is worth saving
            interrupted = True

    if interrupted or len(steps) < 2:
        reason = "the first step only warms up, so a plan needs at least two to be corrected"
        print(f"stopped: {reason}", file=sys.stderr)
        raise Interrupted
    return steps


def take_step(run: Run, algorithm: Algorithm, step: int) -> Step:
    """One step exactly as training takes it, with its times."""
    run.clock.start()
    cpu, before = time.process_time(), run.source.cursor.next
    groups = run.source.take(step)
    batch, lesson = run.annotate(groups)
    learned = run.models.update(batch, lesson)
    run.source.publish(run.models["policy"], version=step + 1)
    run.record(step, groups, batch, learned)
    laps = run.clock.laps()

    collected = run.source.collected
    drawn = run.source.cursor.next - before - collected.skipped_prompts
    planned = step_load(run.config, algorithm, 0.0)
    rollouts = [rollout for group in groups for rollout in group]
    prompt = sum(len(rollout.prompt_ids) for rollout in rollouts) / len(rollouts)
    load = planned._replace(
        prompts=drawn,
        prompt=prompt,
        length=collected.generated_tokens / (drawn * planned.samples),
        longest=max(rollout.completion.length for rollout in rollouts),
    )

    sampling = laps["time/sample"]
    return Step(load, sampling, laps["time/step"] - sampling, time.process_time() - cpu)


def compare(
    steps: Sequence[Step], config: Config, algorithm: Algorithm, shape: Shape, device: Device
) -> Correction:
    """The measured steps but the first, against the plan for exactly their tokens."""
    counted = steps[1:]
    sampling = learning = 0.0
    for step in counted:
        parts = step_parts(config, algorithm, shape, device, step.load)
        for name, part in parts.items():
            if name in SAMPLING:
                sampling += OTHERWISE * part.seconds
            else:
                learning += OTHERWISE * part.seconds

    seconds = sum(step.seconds for step in counted)
    return Correction(
        steps=len(counted),
        lengths=(counted[0].load.length, counted[-1].load.length),
        seconds=seconds / len(counted),
        planned=(sampling + learning) / len(counted),
        sampling=sum(step.sampling for step in counted) / sampling,
        learning=sum(step.learning for step in counted) / learning,
        share=sum(step.cpu for step in counted) / seconds,
        on_cpu=device.is_cpu,
    )


def corrected(plan: Plan, correction: Correction) -> Plan:
    """The plan with every time multiplied as measured; evaluations count as sampling."""
    step = {
        name: part._replace(
            seconds=part.seconds
            * (correction.sampling if name in SAMPLING else correction.learning)
        )
        for name, part in plan.step.items()
    }
    evaluations = plan.evaluations._replace(seconds=plan.evaluations.seconds * correction.sampling)
    return replace(plan, step=step, evaluations=evaluations)
