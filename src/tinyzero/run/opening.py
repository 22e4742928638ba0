"""Opens a model for use after training: finds it, loads it and gives it its task."""

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
from tinyzero.errors import UserError, short_path
from tinyzero.rollouts import Player
from tinyzero.tasks import load_task

USED = (
    "task.",
    "grading.",
    "model.date",
    "model.device",
    "model.dtype",
    "model.prompt",
    "model.threads",
    "eval.max_tokens",
    "eval.temperature",
)
"""Options of a recipe that matter when a model is only used; keys that begin like this."""


def recipe_of(base: str) -> str | None:
    """The bundled recipe that trains the base `base`; None if that is not a bundled base."""
    if not configs.is_bundled(base):
        return None

    for recipe in configs.recipes():
        if configs.read_recipe(recipe).get("model", {}).get("name") == base:
            return recipe
    return None


@contextmanager
def open_player(config: configs.Config, model: str) -> Iterator[Player]:
    """A player of the model in the folder `model`, on the task of `config`.

    Its grader is closed when the context ends.
    """
    import torch

    from tinyzero import models
    from tinyzero.run.check import slow_type
    from tinyzero.run.parts import make_grader
    from tinyzero.samplers.torch import TorchSampler

    task = load_task(config.task.name, config.task.options)
    if note := slow_type(config):
        print(note, file=sys.stderr)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    with closing(make_grader(task, config.grading)) as grader:
        device = models.pick_device(config.model.device)
        dtype = getattr(torch, config.model.dtype)
        lm = models.load_model(model, dtype, device, note=partial(print, file=sys.stderr))
        tokenizer = models.load_tokenizer(model)
        ends = models.end_ids(tokenizer, lm, task.stop)
        sampler = TorchSampler(lm, models.decoder(tokenizer), ends)
        encode = partial(
            models.encode_prompt,
            tokenizer,
            rows=lm.config.get_text_config().vocab_size,
            date=config.model.date,
            note=models.once(lambda text: print(text, file=sys.stderr)),
        )
        encode_reply = partial(models.encode_reply, tokenizer, date=config.model.date)
        player = Player(
            task,
            sampler,
            encode,
            config.model.prompt,
            grader,
            context=lm.context,
            encode_reply=encode_reply,
        )
        if task.plays_episodes:
            player.check_turns(task.problem("dev", 0))
        yield player


def settings_for(
    model: str,
    recipe: str | None,
    task: str | None,
    overrides: Mapping[str, Any],
    trusted: bool,
    flags: str,
) -> tuple[configs.Config, str]:
    """The configuration to use `model` with, and the folder to load it from.

    The configuration is that of `recipe`; without one, that of the run or the bundled base that
    `model` is. `task` and `overrides` go on top. Raises UserError if an override has no effect, or
    if a folder that is not `trusted` names code that the user did not name; `flags` say how to
    allow it.
    """
    source, model_folder = locate(model)
    name = recipe or source
    values = configs.read_recipe(name) if name else {"model": {"prompt": "base"}}

    chosen = dict(overrides)
    for key in chosen:
        if not key.startswith(USED):
            raise UserError(f"{key} has no effect: this command does not train the model")
    if task:
        chosen["task.name"] = task

    config = configs.resolve(values, chosen)
    if source and not (recipe or trusted):
        recorded = configs.resolve(values, {})
        allowed = trust.named_by_user(recorded, config, chosen)
        trust.require(recorded, source, ("task",), flags, allowed)
    return config, model_folder


def locate(model: str) -> tuple[str | None, str]:
    """The recipe that made `model`, if it is known, and the folder to load the model from.

    For a run that is its newest undamaged checkpoint.
    """
    from tinyzero.run import checkpoint

    if recipe := recipe_of(model):
        return recipe, model

    folder = Path(model)
    run_config = folder / "config.toml"
    if run_config.is_file():
        newest = checkpoint.latest(folder, lambda text: print(text, file=sys.stderr))
        if newest is None:
            raise UserError(
                f"{folder} has no checkpoint yet: wait for the first one, or stop the run with "
                "Ctrl-C, which saves one"
            )
        return str(run_config), str(newest / "model")

    exported_recipe = folder / "recipe.toml"
    if exported_recipe.is_file() and (folder / "config.json").is_file():
        return str(exported_recipe), model

    check_whole(folder)
    for parent in folder.resolve().parents[:3]:
        if (parent / "config.toml").is_file() and (parent / "checkpoints").is_dir():
            return str(parent / "config.toml"), model
    return None, model


def check_whole(folder: Path) -> None:
    """Raise UserError if `folder` is a checkpoint, or the model in one, and is damaged."""
    from tinyzero.run import checkpoint

    for candidate in (folder.resolve(), folder.resolve().parent):
        is_checkpoint = re.fullmatch(r"step_\d+", candidate.name)
        if is_checkpoint and (candidate / checkpoint.MANIFEST).is_file():
            if reason := checkpoint.verify(candidate):
                raise UserError(
                    f"checkpoint {short_path(candidate)} cannot be used ({reason}): "
                    "name the run, or another checkpoint"
                )
            return
