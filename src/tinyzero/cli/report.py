"""`tinyzero report`: write a page about one run or several."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = """\
  tinyzero report runs/laptop-grpo-0
  tinyzero report runs/laptop-grpo-0 runs/laptop-ppo-0 --out compare.html"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "report",
        run,
        "write a page about a run, or one that compares several: charts and samples",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's folder, or a folder of runs such as a grid's",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the page to write (default: report.html in the run, or in the folder of the runs)",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Write the page."""
    from tinyzero.tools.report.page import write_report

    paths = [Path(folder) for folder in given.runs]
    shared_folder = Path(os.path.commonpath(map(os.path.abspath, paths)))
    out = Path(given.out) if given.out else shared_folder / "report.html"
    size = write_report(paths, out)
    print(f"wrote {out} ({size / 1e6:.1f} MB): open it in a browser")
    return 0
