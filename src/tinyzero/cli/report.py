"""`tinyzero report`: write a page about one run or several."""

from __future__ import annotations

import argparse
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
        help="the page to write (default: report.html in the folder that is named; "
        "report-RUN1-RUN2.html next to several)",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Write the page."""
    from tinyzero.tools.report.page import default_page, write_report

    paths = [Path(folder) for folder in given.runs]
    out = Path(given.out) if given.out else default_page(paths)
    size = write_report(paths, out)
    print(f"wrote {out} ({size / 1e6:.1f} MB): open it in a browser")
    return 0
