"""What can be known to be wrong with a configuration before a model is loaded, by a run and by grids of them."""

from __future__ import annotations

from tinyzero import models, samplers
from tinyzero.algorithms import Algorithm, load_algorithm
from tinyzero.config import Config
from tinyzero.errors import UserError
from tinyzero.run import trackers
from tinyzero.tasks import load_task
from tinyzero.tasks.guarded import GuardedTask


def check_config(config: Config) -> tuple[GuardedTask, Algorithm]:
    """The task and the algorithm, where they and the rest go together. Raises UserError where they do not."""
    trackers.require(config.run.track)
    task = load_task(config.task.name, config.task.options)
    algorithm = load_algorithm(config.algorithm.name, config.algorithm.options)
    samplers.check_name(config.sampler.name)
    if config.rollout.samples < algorithm.min_samples:
        raise UserError(
            f"rollout.samples is {config.rollout.samples}: "
            f"{config.algorithm.name} needs at least {algorithm.min_samples}"
        )
    algorithm.check(config.rollout.max_tokens)
    check_memory(config)
    check_context(config)
    return task, algorithm


def check_memory(config: Config) -> None:
    """Raise UserError where an option that saves memory would do nothing, or undo another."""
    trained = {"optimizer": config.optimizer, "critic": config.critic, "prm": config.prm}
    moved = [f"{name}.offload" for name, section in trained.items() if section.offload]
    moved += ["model.park"] if config.model.park else []
    if moved and models.pick_device(config.model.device) == "cpu":
        raise UserError(
            f"{moved[0]} moves things to CPU memory, where a run on a CPU has them: leave it out"
        )
    if config.model.park and config.lora.rank:
        raise UserError(
            "model.park moves weights that lora.rank lets all models share: leave one of them out"
        )


def check_context(config: Config) -> None:
    """Raise UserError where there is no such model, or answers alone exceed its context; prompts come on top later."""
    context, limits = (
        models.known_context(config.model.name),
        {"rollout": config.rollout.max_tokens},
    )
    if config.eval.dev_problems or config.eval.test_problems:
        limits["eval"] = config.eval_tokens
    for section, limit in limits.items():
        if context is not None and limit >= context:
            raise UserError(
                f"{section}.max_tokens {limit} exceeds the model's context of {context}: lower it"
            )
