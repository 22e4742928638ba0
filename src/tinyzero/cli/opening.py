"""A model as a command uses it: found, loaded, and given its task."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from tinyzero import config as configs
from tinyzero.cli.arguments import natural, positive, share, temperature
from tinyzero.errors import UserError
from tinyzero.rollouts import Player
from tinyzero.tasks import load_task
from tinyzero.types import SamplingParams

USED = ("task.", "model.device", "model.dtype", "model.prompt", "model.threads", "eval.max_tokens")
"""What a command that uses a model as it is takes of a recipe."""


BASES = {"tiny": "laptop", "tiny-multiplication": "multiplication"}
"""The recipe that each bundled base is made for."""


def open_player(
    given: argparse.Namespace, config: configs.Config, model: str
) -> tuple[Player, SamplingParams]:
    """A player of the model and its task, and how it samples, as the command and `config` say."""
    import torch

    from tinyzero import models
    from tinyzero.samplers.torch import TorchSampler

    task = load_task(config.task.name, config.task.options)
    if config.model.threads:
        torch.set_num_threads(config.model.threads)
    device = models.pick_device(config.model.device)
    lm, tokenizer = (
        models.load_model(model, getattr(torch, config.model.dtype), device),
        models.load_tokenizer(model),
    )
    sampler = TorchSampler(lm, models.decoder(tokenizer), models.end_ids(tokenizer, lm))
    params = SamplingParams(
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        max_tokens=given.max_tokens or config.eval_tokens,
        seed=given.seed,
    )
    encode = partial(models.encode_prompt, tokenizer)
    return Player(task, sampler, encode, config.model.prompt), params


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
    return configs.resolve(recipe, overrides), model


def locate(model: str) -> tuple[str | None, str]:
    """(the recipe that made `model`, the folder to load): a run means its newest whole checkpoint."""
    from tinyzero.run import checkpoint

    if model in BASES:
        return BASES[model], model
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
    for parent in folder.resolve().parents[:3]:
        if (parent / "config.toml").is_file() and (parent / "checkpoints").is_dir():
            return str(parent / "config.toml"), model
    return None, model


def model_arguments(parser: argparse.ArgumentParser, seed: int = 0) -> None:
    parser.add_argument(
        "model",
        help="a run, a folder with a Hugging Face model, a hub id, or a bundled base, tiny or tiny-multiplication",
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
        "--max-tokens", type=positive, help="limit on new tokens (default: the recipe's)"
    )
    parser.add_argument("--seed", type=natural, default=seed, help=f"(default: {seed})")
