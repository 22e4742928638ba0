"""`tinyzero ablate`: train every combination of a grid and compare them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero.cli.arguments import MOST_PROCESSES, up_to

EXAMPLES = """\
  tinyzero ablate ablations/algorithms.toml
  tinyzero ablate mine.toml --jobs 4 --out runs/mine"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "ablate",
        run,
        "train every choice of a grid with several seeds, and compare them",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "grid",
        metavar="GRID",
        help="a TOML file with recipe, seeds, [common] options and [axes.NAME] choices; every "
        "option of the runs is set there",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the runs (default: runs/NAME, as in NAME.toml)"
    )
    parser.add_argument(
        "--jobs",
        type=up_to(MOST_PROCESSES),
        default=1,
        metavar="N",
        help="runs at the same time (default: 1)",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Train what is not finished yet, then write the comparison."""
    from tinyzero.tools.ablate import run_grid

    path = Path(given.grid)
    folder = Path(given.out or f"runs/{path.stem}")
    run_grid(path, folder, given.jobs, lambda text: print(text, flush=True))
    return 0
