"""`tinyzero ablate`: run a grid of trainings."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tinyzero.cli.arguments import MOST_PROCESSES, up_to
from tinyzero.errors import UserError


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("ablate", run, "run a grid of trainings over seeds and compare them")
    parser.add_argument("grid", help="a TOML file: recipe, seeds, common, axes")
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the runs (default: runs/NAME of the grid's file)"
    )
    parser.add_argument(
        "--jobs", type=up_to(MOST_PROCESSES), default=1, help="runs at a time (default: 1)"
    )
    parser.set_defaults(options="any")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.ablate import run_grid

    if rest:
        raise UserError(
            f"unknown argument {rest[0]}: what cells have in common stands in the grid, under [common]"
        )
    path = Path(given.grid)
    run_grid(
        path,
        Path(given.out or f"runs/{path.stem}"),
        given.jobs,
        lambda text: print(text, flush=True),
    )
    return 0
