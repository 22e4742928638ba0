"""The check of a configuration: finds mistakes before a model is loaded.

A run, `--dry-run`, every cell of a grid and a plan use it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch

from tinyzero import models, samplers
from tinyzero.algorithms import Algorithm, load_algorithm
from tinyzero.config import Config, Named
from tinyzero.cost.devices import LACKS, Device, device_named, lacks_bfloat16, this_cpu
from tinyzero.cost.shapes import Shape, find_shape
from tinyzero.cost.simulator import Plan, changed, make_plan, remedies
from tinyzero.cost.words import remedy_line, size_text, usable_text
from tinyzero.errors import UserError
from tinyzero.registry import acting, validate
from tinyzero.run import trackers
from tinyzero.tasks import REGISTRY, TASKS, load_task
from tinyzero.tasks.guarded import GuardedTask

ONE_ROW = {"rollout.rows": 1}
TYPICAL_PROMPT = 128.0  # tokens; its real length, which hardly matters, needs the tokenizer


class Parts(NamedTuple):
    """A configuration that was checked, and what it names."""

    config: Config
    """With the date and every option of the task and algorithm that acts: defaults may change."""
    task: GuardedTask
    algorithm: Algorithm


def check(config: Config, given: Iterable[str] = (), here: bool = True) -> Parts:
    """The task and the algorithm of `config`. Raises UserError if its options do not go together.

    `given` are the keys set on a command line or by a grid: each of them must have an effect. Set
    `here` to False if the run may be meant for another machine: the devices and the packages of
    this one then do not matter.
    """
    task = load_task(config.task.name, config.task.options)
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    samplers.check_name(config.sampler.name)
    refuse_idle(given, config, algorithm)

    if config.rollout.samples < algorithm.min_samples:
        raise UserError(
            f"rollout.samples is {config.rollout.samples}: "
            f"{config.algorithm.name} needs at least {algorithm.min_samples}"
        )
    algorithm.check(config.rollout.max_tokens)
    if config.model.park and config.lora.rank:
        raise UserError(
            "model.park cannot move weights that all models share with lora.rank: use one of them"
        )

    if here:
        check_machine(config)
    check_context(config)
    return Parts(complete(config, task, algorithm), task, algorithm)


def complete(config: Config, task: GuardedTask, algorithm: Algorithm) -> Config:
    """`config` with its date, and every option of the task and the algorithm that acts."""
    options = getattr(algorithm, "options", None)
    if options is None:  # a user's class may keep its options under another name
        kind: Any = type(algorithm)
        options = validate(kind.Options, config.algorithm.options, "algorithm")

    changes: dict[str, Any] = {
        "task": Named(name=config.task.name, **task.given),
        "algorithm": Named(name=config.algorithm.name, **acting(options)),
    }
    if not config.model.date:
        today = datetime.date.today().isoformat()
        changes["model"] = config.model.model_copy(update={"date": today})
    if config.sampler.name == "auto" and config.model.device == "cpu":
        changes["sampler"] = config.sampler.model_copy(update={"name": "torch"})
    return config.model_copy(update=changes)


def refuse_idle(given: Iterable[str], config: Config, algorithm: Algorithm) -> None:
    """Raise UserError if an option that was `given` has no effect together with the others."""
    name = config.algorithm.name
    idle = {
        "critic.": "critic" not in algorithm.roles and f"{name} has no critic",
        "prm.": "prm" not in algorithm.roles and f"{name} has no reward model",
        "lora.": not config.lora.rank and "lora.rank is 0",
        "eval.problems": not config.eval.every and "eval.every is 0",
        "run.rollouts": not config.run.rollouts_every and "run.rollouts_every is 0",
        "grading.": _grades_here(config) and f"{config.task.name} grades in this process",
        "sampler.cache_gb": config.sampler.name == "torch" and "it is for vllm",
    }

    for key in given:
        section = key.partition(".")[0] + "."
        reason = idle.get(key) or (key != "lora.rank" and idle.get(section))
        if reason:
            raise UserError(f"{key} has no effect: {reason}")


def _grades_here(config: Config) -> bool:
    """Whether the task is a bundled one that runs no programs, so that it needs no workers."""
    return config.task.name in TASKS and not REGISTRY.find(config.task.name).needs_sandbox


def unused_gpu(config: Config) -> str | None:
    """A note if the run would use the CPU of a machine that has a GPU; None otherwise."""
    if config.model.device != "cpu" or models.pick_device("auto") == "cpu":
        return None
    return (
        "this recipe trains on the CPU, though there is a GPU: --model.device cuda uses it, which "
        "is worth it for models much larger than the bundled ones"
    )


def machine_notes(config: Config, algorithm: Algorithm) -> list[str]:
    """What to say about this machine before the model is loaded: slow or too small for the run."""
    notes = [unused_gpu(config), slow_type(config), too_little_memory(config, algorithm)]
    return [note for note in notes if note]


def slow_type(config: Config) -> str | None:
    """A note if the model would compute in bfloat16 on a CPU without units for it."""
    on_cpu = models.pick_device(config.model.device) == "cpu"
    if config.model.dtype != "bfloat16" or not on_cpu or not lacks_bfloat16():
        return None
    return (
        f"this will be many times slower than it has to be: model.dtype is bfloat16, {LACKS}; "
        "use --model.dtype float32"
    )


def too_little_memory(config: Config, algorithm: Algorithm) -> str | None:
    """A note if weights, optimizer and activations do not fit into this machine's memory.

    The sampler's cache is left out: the sampler decodes as many completions at once as fit. None if
    the device or the shape of the model is not known.
    """
    where = models.pick_device(config.model.device)
    device = this_cpu() if where == "cpu" else device_named(torch.cuda.get_device_name(where))
    if device is None:
        return None

    try:
        shape = find_shape(config.model.name)
        planned = partial(planned_on, device, algorithm, shape, TYPICAL_PROMPT)
        plan = planned(config)
        changes = {} if plan.fits else remedies(changed(config, ONE_ROW), planned)
    except UserError:
        return None
    if plan.fits:
        return None
    return (
        f"this run will not fit: it needs {size_text(plan.peak)} at its peak, more than "
        f"{usable_text(plan)}; {remedy_line(changes)}"
    )


def planned_on(
    device: Device, algorithm: Algorithm, shape: Shape, prompt: float, config: Config
) -> Plan:
    """The plan of `config` on a device, with the smallest cache that sampling can do with."""
    return make_plan(changed(config, ONE_ROW), algorithm, shape, device, prompt)


def check_machine(config: Config) -> None:
    """Raise UserError if this machine lacks a tracker's package or a device that the run needs."""
    trackers.require(config.run.track)

    device = models.pick_device(config.model.device)
    trained = {"optimizer": config.optimizer, "critic": config.critic, "prm": config.prm}
    moved = [f"{name}.offload" for name, section in trained.items() if section.offload]
    moved += ["model.park"] if config.model.park else []
    if moved and device == "cpu":
        raise UserError(
            f"{moved[0]} moves things to CPU memory, but this run is on the CPU: leave it out"
        )


def check_context(config: Config) -> None:
    """Raise UserError if there is no such model, or an answer alone exceeds its context.

    The lengths of prompts are checked later, when there is a tokenizer.
    """
    context = models.known_context(config.model.name)
    limits = {"rollout": config.rollout.max_tokens}
    if config.eval.dev_problems or config.eval.test_problems:
        limits["eval"] = config.eval_tokens

    for section, limit in limits.items():
        if context is not None and limit >= context:
            raise UserError(
                f"{section}.max_tokens {limit} leaves no room for the prompt in the model's "
                f"context of {context}: use less"
            )
