"""Arguments that several commands share, and the checks of their values."""

from __future__ import annotations

import argparse
import tomllib
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.errors import UserError

MOST_PROBLEMS, MOST_SAMPLES, MOST_TOKENS = 100_000, 16_384, 2**20
MOST_PROCESSES = 256  # and threads


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the recipe and its profile; `run_options` adds every option of the run."""
    recipe: Any = parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="a name from `tinyzero recipes`, optionally with -TASK-ALGORITHM, or a .toml file "
        f"(default: {configs.DEFAULT_RECIPE})",
    )
    recipe.completer = lambda **_: [*configs.recipes(), *map(str, Path().glob("*.toml"))]
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="one of the recipe's profiles, such as 24gb, which fit the run into that memory",
    )


def trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add --trust."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="allow code that the folder names as its task or algorithm to run",
    )


def run_options(given: Namespace | None, overrides: Mapping[str, Any]) -> list[configs.Option]:
    """Every option of the run that a command line with a recipe asks for."""
    if given is None:
        return configs.describe(configs.Config(), {"command": {}})

    if resumed := getattr(given, "resume", None):
        config = resumed_config(given, overrides)
        return configs.describe(config, configs.read_asked_tables(Path(resumed)))

    # the second reading of the command line rejects unknown options
    keys = configs.option_keys()
    known = {
        key: value
        for key, value in overrides.items()
        if key in keys or key.startswith(("task.", "algorithm."))
    }
    config = chosen_config(given, known)
    return configs.describe(config, asked_of(config, given, known))


def chosen_config(given: Namespace, overrides: Mapping[str, Any]) -> configs.Config:
    """The configuration that a command line with a recipe asks for; raises UserError if invalid."""
    name = given.recipe or configs.DEFAULT_RECIPE
    configs.require_recipe(name, overrides, given.trust)
    return configs.resolve(configs.read_recipe(name), overrides, given.profile)


def resumed_config(given: Namespace, overrides: Mapping[str, Any]) -> configs.Config:
    """The configuration of the run that --resume continues. Raises UserError."""
    if extra := given.recipe or given.profile:
        raise UserError(f"--resume {given.resume} has its own recipe: leave out {extra!r}")
    return configs.resumed(Path(given.resume), overrides, None, given.trust, "--trust")


def asked_of(
    config: configs.Config, given: Namespace, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The tables that asked.toml of this run would have."""
    recipe = given.recipe or configs.DEFAULT_RECIPE
    text = configs.asked_toml(configs.asked(config), [], recipe, list(overrides))
    return tomllib.loads(text)


def task_options(given: Namespace | None, overrides: Mapping[str, Any]) -> list[configs.Option]:
    """The options of the task that a command line names."""
    name = getattr(given, "task", None) or "countdown"
    return configs.own_options("task", name, None, {"command": {}})


def checked(
    kind: Callable[[str], Any], is_allowed: Callable[[Any], bool], wanted: str
) -> Callable[[str], Any]:
    """A type for argparse: the text as a `kind`, if it is allowed; `wanted` says what is."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_allowed(value):
            raise argparse.ArgumentTypeError(f"{text[:60]!r} is not {wanted}")
        return value

    return read


def up_to(most: int) -> Callable[[str], Any]:
    """A type for argparse: a count with an upper bound, like every number from outside."""
    return checked(int, lambda value: 1 <= value <= most, f"a whole number from 1 to {most}")


natural = checked(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")

port = checked(int, lambda value: 0 <= value < 2**16, "a port: a whole number from 0 to 65535")

temperature = checked(
    float, lambda value: value == 0 or 0.01 <= value <= 100, "0, or a number from 0.01 to 100"
)

price = checked(float, lambda value: 0 <= value <= 1e6, "a number of dollars from 0 to 1000000")

amount = checked(float, lambda value: 0 < value <= 1e18, "a number above 0 and at most 1e18")

share = checked(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def threads_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--threads` to a command that trains without a recipe."""
    parser.add_argument(
        "--threads",
        type=up_to(MOST_PROCESSES),
        default=2,
        metavar="N",
        help="CPU threads (default: 2)",
    )
