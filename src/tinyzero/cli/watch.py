"""`tinyzero watch`: the page of `tinyzero report`, live."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero.cli.arguments import port

EXAMPLES = """\
  tinyzero watch runs/laptop-grpo-0
  tinyzero watch runs                   every run in the folder"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "watch", run, "show the page about a run live, while it trains", examples=EXAMPLES
    )
    parser.add_argument(
        "folder", metavar="RUN", help="a run's folder, or a folder of runs; it may still be empty"
    )
    parser.add_argument(
        "--port",
        type=port,
        default=8765,
        metavar="N",
        help="port of the page; 0 for any that is free (default: 8765)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address of the page; 0.0.0.0 lets other machines see it (default: 127.0.0.1)",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Serve the page until Ctrl-C."""
    from tinyzero.tools.report.watch import watch

    watch(Path(given.folder), given.host, given.port, lambda text: print(text, flush=True))
    return 0
