"""`tinyzero watch`: the same page, live."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tinyzero.cli.arguments import port


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("watch", run, "the same page, live in the browser while the run goes on")
    parser.add_argument(
        "folder", metavar="RUN", help="a run's folder, or a folder of runs; it may be empty still"
    )
    parser.add_argument(
        "--port", type=port, default=8765, help="0 for any that is free (default: 8765)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="who may look: 0.0.0.0 lets others in (default: 127.0.0.1)",
    )
    parser.set_defaults(options="none")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.report.watch import watch

    watch(Path(given.folder), given.host, given.port, lambda text: print(text, flush=True))
    return 0
