"""Makes the learners of a run, each from a spec that other processes can use too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tinyzero import algorithms, models
from tinyzero.algorithms import Algorithm
from tinyzero.config import Config, OptimizerOptions
from tinyzero.errors import UserError
from tinyzero.learner import TorchLearner, policy_outputs, value_outputs
from tinyzero.models import Backbone, lora
from tinyzero.types import Learner

ROLES = ("policy", "critic", "prm", "reference")


@dataclass(frozen=True)
class LearnerSpec:
    """All that a process needs to make a learner; it can be pickled and holds no code.

    The configuration names the algorithm, and so the loss, by its name or reference string.

    Example: `build_learner(LearnerSpec("policy", config)).update(batch)`
    """

    role: str
    """One of ROLES."""

    config: Config


def build_learner(spec: LearnerSpec, policy: Backbone | None = None) -> TorchLearner:
    """The learner that plays a role, with its loss.

    `policy` is the policy's model if it is in this process: with adapters, the other models share
    its frozen weights. Raises UserError if the role, the model or the algorithm is unknown.
    """
    config, role = spec.config, spec.role
    algorithm = algorithms.load_algorithm(config.algorithm.name, config.algorithm.options)
    return _learner(config, algorithm, role, policy)


def make_learners(config: Config, algorithm: Algorithm, policy: Backbone) -> dict[str, Learner]:
    """The learners of the policy and of every other model that the algorithm needs, by role."""
    roles = ("policy", *algorithm.roles)
    return {role: _learner(config, algorithm, role, policy) for role in roles}


def _learner(
    config: Config, algorithm: Algorithm, role: str, policy: Backbone | None
) -> TorchLearner:
    update = config.update
    model = _model(config, algorithm, role, policy)
    score = partial(
        policy_outputs, temperature=config.rollout.temperature, logit_rows=update.logit_rows
    )
    options: dict[str, OptimizerOptions] = {
        "policy": config.optimizer,
        "critic": config.critic,
        "prm": config.prm,
    }

    return TorchLearner(
        models.ValueModel(model) if role == "critic" else model,
        value_outputs if role == "critic" else score,
        options.get(role),
        loss=partial(algorithm.loss, role),
        minibatches=update.minibatches,
        epochs=update.epochs,
        total_updates=config.steps * update.minibatches * update.epochs,
        micro_tokens=update.micro_tokens,
        patience=update.patience,
        park=config.model.park and role != "policy",
    )


def _model(config: Config, algorithm: Algorithm, role: str, policy: Backbone | None) -> Backbone:
    """The policy's own model, or a new one; a reference that is refreshed has its own weights."""
    if role == "policy":
        return policy or load(config, role)
    is_refreshed = role == "reference" and algorithm.refresh > 0
    return load(config, role, None if is_refreshed else policy)


def load(
    config: Config,
    role: str,
    owner: Backbone | None = None,
    note: Callable[[str], None] = models.ignore,
) -> Backbone:
    """The model that plays a role, on its device.

    With adapters, it shares the frozen weights of `owner` if there is one. `note` is called with a
    line about each thing in the model's folder that is not used.
    """
    if role not in ROLES:
        raise UserError(
            f"algorithm {config.algorithm.name} asks for a model {role!r}: "
            f"the known roles are {', '.join(ROLES)}"
        )
    section, device = config.model, models.pick_device(config.model.device)
    shares = bool(config.lora.rank) and owner is not None

    model = models.load_model(
        section.name,
        getattr(torch, section.dtype),
        "cpu" if shares else device,  # weights that will be shared never use GPU memory twice
        config.update.pack,
        section.checkpointing,
        note=note,
    )
    if config.lora.rank:
        if role == "reference":
            model.requires_grad_(False)
        else:
            lora.add_adapter(model, config.lora)
        if owner is not None:
            lora.share_frozen(model, owner)
    return model.to(device)
