"""A model as a command uses it: found, loaded, and given its task."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from tinyzero import config as configs
from tinyzero.cli.arguments import MOST_TOKENS, natural, share, temperature, trust_argument, up_to
from tinyzero.config import trust
from tinyzero.errors import UserError
from tinyzero.rollouts import Player
from tinyzero.tasks import load_task
from tinyzero.types import SamplingParams

USED = (
    "task.",
    "grading.",
    "model.device",
    "model.dtype",
    "model.prompt",
    "model.threads",
    "eval.max_tokens",
)
"""What a command that uses a model as it is takes of a recipe."""


def recipe_of(base: str) -> str | None:
    """The bundled recipe that trains the bundled base `base`; None if it is no bundled base."""
    from tinyzero.models import BUNDLED

    if base not in BUNDLED:
        return None
    trained = ((name, configs.read_recipe(name).get("model", {})) for name in configs.recipes())
    return next((name for name, model in trained if model.get("name") == base), None)


@contextmanager
def open_player(
    given: argparse.Namespace, config: configs.Config, model: str
) -> Iterator[tuple[Player, SamplingParams]]:
    """A player of the model and its task, and how it samples, as the command and `config` say."""
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
        params = SamplingParams(
            temperature=given.temperature,
            top_p=given.top_p,
            top_k=given.top_k,
            max_tokens=given.max_tokens or config.eval_tokens,
            seed=given.seed,
        )
        encode = partial(models.encode_prompt, tokenizer)
        template = config.model.prompt
        yield Player(task, sampler, encode, template, grader, context=lm.context), params


def settings_of(given: argparse.Namespace, rest: list[str]) -> tuple[configs.Config, str]:
    """The recipe of a command that uses a model as it is, and the folder to load the model from."""
    source, model = locate(given.model)
    name = given.recipe or source
    recipe = configs.read_recipe(name) if name else {"model": {"prompt": "base"}}
    overrides = configs.parse_overrides(rest)
    for key in overrides:
        if not key.startswith(USED):
            raise UserError(
                f"{key} has no effect: the model is used as it is (see tinyzero {given.verb} --help)"
            )
    if given.task:
        overrides["task.name"] = given.task
    if source and not (given.recipe or given.trust or "task.name" in overrides):
        trust.require(configs.resolve(recipe, {}), source, ("task",), "--task NAME or --trust")
    return configs.resolve(recipe, overrides), model


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


def model_arguments(parser: argparse.ArgumentParser, seed: int = 0) -> None:
    parser.add_argument(
        "model",
        help="a run, a folder with a Hugging Face model, a hub id, or a bundled base, such as tiny",
    )
    parser.add_argument("--task", help="the task (default: the run's own)")
    parser.add_argument(
        "--recipe", help="take task, options and prompt from this recipe (default: the run's own)"
    )
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, help="0 is greedy (default: 1)"
    )
    parser.add_argument("--top-p", type=share, default=1.0, help="(default: 1)")
    parser.add_argument("--top-k", type=natural, default=0, help="0 for all (default: 0)")
    parser.add_argument(
        "--max-tokens", type=up_to(MOST_TOKENS), help="limit on new tokens (default: the recipe's)"
    )
    parser.add_argument("--seed", type=natural, default=seed, help=f"(default: {seed})")
    trust_argument(parser)
