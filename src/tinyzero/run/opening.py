"""A model as it is used after training: found, loaded, and given its task."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.config import trust
from tinyzero.errors import UserError
from tinyzero.rollouts import Player
from tinyzero.tasks import load_task

USED = (
    "task.",
    "grading.",
    "model.device",
    "model.dtype",
    "model.prompt",
    "model.threads",
    "eval.max_tokens",
)
"""What using a model as it is takes of a recipe."""


def recipe_of(base: str) -> str | None:
    """The bundled recipe that trains the bundled base `base`; None if it is not a bundled base."""
    if not configs.is_bundled(base):
        return None
    trained = ((name, configs.read_recipe(name).get("model", {})) for name in configs.recipes())
    return next((name for name, model in trained if model.get("name") == base), None)


@contextmanager
def open_player(config: configs.Config, model: str) -> Iterator[Player]:
    """A player of the model in the folder `model` on the task of `config`. Afterwards its grader is closed."""
    import torch

    from tinyzero import models
    from tinyzero.run.parts import make_grader
    from tinyzero.samplers.torch import TorchSampler

    task = load_task(config.task.name, config.task.options)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    with closing(make_grader(task, config.grading)) as grader:
        device = models.pick_device(config.model.device)
        lm = models.load_model(model, getattr(torch, config.model.dtype), device)
        tokenizer = models.load_tokenizer(model)
        ends = models.end_ids(tokenizer, lm, task.stop)
        sampler = TorchSampler(lm, models.decoder(tokenizer), ends)
        encode = partial(models.encode_prompt, tokenizer)
        yield Player(task, sampler, encode, config.model.prompt, grader, context=lm.context)


def settings_for(
    model: str,
    recipe: str | None,
    task: str | None,
    overrides: Mapping[str, Any],
    trusted: bool,
    flags: str,
) -> tuple[configs.Config, str]:
    """The configuration to use `model` with, and the folder to load it from.

    It is that of `recipe`, else of the run or the base that `model` is, with `task` and `overrides` on
    top. Raises UserError on an override without effect, and if a folder that is not `trusted` names
    code that was not named here; `flags` say how to allow it.
    """
    source, place = locate(model)
    name = recipe or source
    values = configs.read_recipe(name) if name else {"model": {"prompt": "base"}}
    chosen = dict(overrides)
    for key in chosen:
        if not key.startswith(USED):
            raise UserError(f"{key} has no effect: the model is used as it is")
    if task:
        chosen["task.name"] = task
    if source and not (recipe or trusted or "task.name" in chosen):
        trust.require(configs.resolve(values, {}), source, ("task",), flags)
    return configs.resolve(values, chosen), place


def locate(model: str) -> tuple[str | None, str]:
    """(the recipe that made `model`, the folder to load): a run means its newest whole checkpoint."""
    from tinyzero.run import checkpoint

    if recipe := recipe_of(model):
        return recipe, model
    folder = Path(model)
    if (folder / "config.toml").is_file():
        found = checkpoint.latest(folder, lambda text: print(text, file=sys.stderr))
        if found is None:
            raise UserError(f"{folder} has no checkpoint yet: train on, or name a model folder")
        return str(folder / "config.toml"), str(found / "model")
    if (folder / "recipe.toml").is_file() and (
        folder / "config.json"
    ).is_file():  # an exported model
        return str(folder / "recipe.toml"), model
    check_whole(folder)
    for parent in folder.resolve().parents[:3]:
        if (parent / "config.toml").is_file() and (parent / "checkpoints").is_dir():
            return str(parent / "config.toml"), model
    return None, model


def check_whole(folder: Path) -> None:
    """Raise UserError if `folder` is a checkpoint by its own path, or the model in one, and is damaged."""
    from tinyzero.run import checkpoint

    for place in (folder.resolve(), folder.resolve().parent):
        if (place / checkpoint.MANIFEST).is_file() and re.fullmatch(r"step_\d+", place.name):
            if reason := checkpoint.verify(place):
                raise UserError(
                    f"checkpoint {place} cannot be used ({reason}): name the run, or another checkpoint"
                )
            return
