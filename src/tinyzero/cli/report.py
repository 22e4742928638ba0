"""`tinyzero report`: write a page about runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "report",
        run,
        "write a page that tells a run, or compares several: pictures and samples",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's folder, or a folder of runs, such as a grid's",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="(default: parser.html in the run, or beside the runs)"
    )
    parser.set_defaults(options="none")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.report.page import write_report

    paths = [Path(run) for run in given.runs]
    out = (
        Path(given.out)
        if given.out
        else Path(os.path.commonpath(map(os.path.abspath, paths))) / "report.html"
    )
    size = write_report(paths, out)
    print(f"wrote {out} ({size / 1e6:.1f} MB): open it in a browser")
    return 0
