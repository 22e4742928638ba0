"""A model as a command uses it: found, loaded, and given its task."""

from __future__ import annotations

import argparse
import tomllib
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import MOST_TOKENS, natural, share, temperature, trust_argument, up_to
from tinyzero.rollouts import Player
from tinyzero.run import opening
from tinyzero.types import SamplingParams


@contextmanager
def open_player(
    given: Namespace, config: configs.Config, model: str
) -> Iterator[tuple[Player, SamplingParams]]:
    """A player of the model and its task, and how it samples, as the command and `config` say."""
    params = SamplingParams(
        temperature=config.eval_temperature if given.temperature is None else given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        max_tokens=given.max_tokens or config.eval_tokens,
        seed=given.seed,
    )
    with opening.open_player(config, model) as player:
        yield player, params


def settings_of(given: Namespace, overrides: Mapping[str, Any]) -> tuple[configs.Config, str]:
    """The recipe of a command that uses a model without training, and the model's folder."""
    return opening.settings_for(
        given.model, given.recipe, given.task, overrides, given.trust, "--task NAME or --trust"
    )


def model_options(given: Namespace | None, overrides: Mapping[str, Any]) -> list[configs.Option]:
    """The options of a recipe that matter without training: the task's, and how the model runs."""
    if given is None or given.model is None:
        return configs.describe(configs.Config(), {"command": {}}, opening.USED)

    used = {key: value for key, value in overrides.items() if key.startswith(opening.USED)}
    config, _ = settings_of(given, used)
    source = given.recipe or given.model
    asked = tomllib.loads(configs.asked_toml(configs.asked(config), [], source, list(used)))
    return configs.describe(config, asked, opening.USED)


def model_arguments(parser: argparse.ArgumentParser, seed: int = 0) -> None:
    """Add the model, its task and how it samples."""
    source_arguments(parser)
    parser.add_argument(
        "--temperature",
        type=temperature,
        metavar="NUMBER",
        help="sampling temperature; 0 takes the most likely token each time (default: the "
        "recipe's)",
    )
    parser.add_argument(
        "--top-p",
        type=share,
        default=1.0,
        metavar="NUMBER",
        help="sample from the most likely tokens whose probabilities add up to this (default: 1)",
    )
    parser.add_argument(
        "--top-k",
        type=natural,
        default=0,
        metavar="N",
        help="sample from this many of the most likely tokens; 0 for all (default: 0)",
    )
    length_arguments(parser, seed)


def source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and its task."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run, a folder with a Hugging Face model, a hub id, or a bundled base such as tiny",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="the task (default: the one that the model was trained on)"
    )
    parser.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="take the task, its options and the prompt from this recipe (default: the run's)",
    )


def length_arguments(parser: argparse.ArgumentParser, seed: int = 0) -> None:
    """Add how long a completion may be, and the seed."""
    parser.add_argument(
        "--max-tokens",
        type=up_to(MOST_TOKENS),
        metavar="N",
        help="most tokens in a completion (default: the recipe's)",
    )
    parser.add_argument(
        "--seed",
        type=natural,
        default=seed,
        metavar="N",
        help=f"seed of the sampling (default: {seed})",
    )
    trust_argument(parser)
