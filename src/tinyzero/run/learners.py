"""The models of a run as learners, each made from a spec: in this process or in another one."""

from __future__ import annotations

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
    """All that it takes to construct a learner anywhere: it can be pickled, and holds no code.

    The algorithm, and so the loss, is in the configuration by its name or reference string with its
    options. Example: `build_learner(LearnerSpec("policy", config)).update(batch)`.
    """

    role: str
    """One of ROLES."""

    config: Config


def build_learner(spec: LearnerSpec, policy: Backbone | None = None) -> TorchLearner:
    """The learner of a role, with its loss.

    `policy` is the policy's own model if it is in this process: with adapters, the other models
    share its frozen weights. Raises UserError on an unknown role, model or algorithm.
    """
    config, role = spec.config, spec.role
    algorithm = algorithms.load_algorithm(config.algorithm.name, config.algorithm.options)
    return _learner(config, algorithm, role, policy)


def make_learners(config: Config, algorithm: Algorithm, policy: Backbone) -> dict[str, Learner]:
    """The policy's learner and one for every other model that the algorithm asks for."""
    return {
        role: _learner(config, algorithm, role, policy) for role in ("policy", *algorithm.roles)
    }


def _learner(
    config: Config, algorithm: Algorithm, role: str, policy: Backbone | None
) -> TorchLearner:
    u = config.update
    model = _model(config, algorithm, role, policy)
    score = partial(policy_outputs, temperature=config.rollout.temperature, logit_rows=u.logit_rows)
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
        minibatches=u.minibatches,
        epochs=u.epochs,
        total_updates=config.steps * u.minibatches * u.epochs,
        micro_tokens=u.micro_tokens,
        patience=u.patience,
        park=config.model.park and role != "policy",
    )


def _model(config: Config, algorithm: Algorithm, role: str, policy: Backbone | None) -> Backbone:
    """The policy's own model, or a new one; a reference that is refreshed has weights of its own."""
    if role == "policy":
        return policy or load(config, role)
    moves = role == "reference" and algorithm.refresh > 0
    return load(config, role, None if moves else policy)


def load(config: Config, role: str, owner: Backbone | None = None) -> Backbone:
    """The model that plays a role, on its device; with adapters it shares the frozen weights of `owner`, if any."""
    if role not in ROLES:
        raise UserError(
            f"algorithm {config.algorithm.name} asks for a model {role!r}: known are {', '.join(ROLES)}"
        )
    m, device = config.model, models.pick_device(config.model.device)
    shares = bool(config.lora.rank) and owner is not None
    # what will be shared never takes a second place on the GPU
    made_on = "cpu" if shares else device
    model = models.load_model(
        m.name, getattr(torch, m.dtype), made_on, config.update.pack, m.checkpointing
    )
    if config.lora.rank:
        if role == "reference":
            model.requires_grad_(False)
        else:
            lora.add_adapter(model, config.lora)
        if owner is not None:
            lora.share_frozen(model, owner)
    return model.to(device)
