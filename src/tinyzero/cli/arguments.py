"""What several commands take on the command line, read and checked."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tinyzero import config as configs
from tinyzero.errors import UserError


def recipe_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(configs.recipes())
    parser.add_argument(
        "recipe",
        nargs="?",
        help=f"{names}, one of them with -TASK-ALGORITHM, or a .toml file (default: {configs.DEFAULT_RECIPE})",
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="one of the recipe's profiles, such as 24gb"
    )
    for short, full in configs.SHORT.items():
        parser.add_argument(
            f"--{short}",
            metavar="VALUE",
            help=f"short for --{full}" if short != full else "see below",
        )


def trust_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the code that the folder itself names as its task or algorithm",
    )


def overrides_of(given: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """Of a recipe, short ones included."""
    short = [
        f"--{name}={value}" for name in configs.SHORT if (value := getattr(given, name)) is not None
    ]
    return configs.parse_overrides([*short, *rest])


def task_overrides(rest: list[str]) -> dict[str, Any]:
    """The task's options of a command that takes no others."""
    overrides = configs.parse_overrides(rest)
    if other := [key for key in overrides if not key.startswith("task.")]:
        raise UserError(
            f"{other[0]} has no effect: only the task's options have, as --task.max_number 25"
        )
    return overrides


def checked(
    kind: Callable[[str], Any], fits: Callable[[Any], bool], wanted: str
) -> Callable[[str], Any]:
    """A type for argparse: `kind` of the text, if it fits."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text[:60]!r} is not {wanted}")
        return value

    return read


def up_to(most: int) -> Callable[[str], Any]:
    """A type for argparse: a count, as every number from outside with an upper bound."""
    return checked(int, lambda value: 1 <= value <= most, f"a whole number from 1 to {most}")


MOST_PROBLEMS, MOST_SAMPLES, MOST_TOKENS = 100_000, 16_384, 2**20
MOST_PROCESSES = 256  # and threads


natural = checked(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")


port = checked(int, lambda value: 0 <= value < 2**16, "a port: a whole number from 0 to 65535")


temperature = checked(
    float, lambda value: value == 0 or 0.01 <= value <= 100, "0, or a number from 0.01 to 100"
)


price = checked(float, lambda value: 0 <= value <= 1e6, "a number of dollars from 0 to 1000000")


amount = checked(float, lambda value: 0 < value <= 1e18, "a number above 0 and at most 1e18")


share = checked(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
