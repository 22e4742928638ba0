"""A model as a command uses it: found, loaded, and given its task."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from tinyzero import config as configs
from tinyzero.cli.arguments import MOST_TOKENS, natural, share, temperature, trust_argument, up_to
from tinyzero.rollouts import Player
from tinyzero.run import opening
from tinyzero.types import SamplingParams


@contextmanager
def open_player(
    given: argparse.Namespace, config: configs.Config, model: str
) -> Iterator[tuple[Player, SamplingParams]]:
    """A player of the model and its task, and how it samples, as the command and `config` say."""
    params = SamplingParams(
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        max_tokens=given.max_tokens or config.eval_tokens,
        seed=given.seed,
    )
    with opening.open_player(config, model) as player:
        yield player, params


def settings_of(given: argparse.Namespace, rest: list[str]) -> tuple[configs.Config, str]:
    """The recipe of a command that uses a model as it is, and the folder to load the model from."""
    overrides = configs.parse_overrides(rest)
    return opening.settings_for(
        given.model, given.recipe, given.task, overrides, given.trust, "--task NAME or --trust"
    )


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
