"""`tinyzero data`: write problems, or describe a file of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import task_options, up_to
from tinyzero.errors import UserError
from tinyzero.evaluate import distinct_problems
from tinyzero.tasks import load_task
from tinyzero.tasks.files import write_table
from tinyzero.types import SPLITS

MOST_ROWS = 10**7
EXAMPLES = """\
  tinyzero data --n 1000 --out problems.jsonl
  tinyzero data multiplication --split test --out test.parquet
  tinyzero data --stats problems.jsonl"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "data",
        run,
        "write problems of a task to a file, or describe a file of Countdown problems",
        options=task_options,
        examples=EXAMPLES,
        usage="[TASK]",
    )
    parser.add_argument(
        "task",
        nargs="?",
        default="countdown",
        metavar="TASK",
        help="the task (default: countdown)",
    )
    parser.add_argument(
        "--n",
        type=up_to(MOST_ROWS),
        default=1000,
        metavar="N",
        help="distinct problems (default: 1000)",
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="which problems (default: train)"
    )
    parser.add_argument("--out", metavar="FILE", help="a .parquet or .jsonl file to write")
    parser.add_argument(
        "--stats",
        metavar="FILE",
        help="describe this file (or dataset on the hub) in Countdown's public layout instead",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Write problems, or describe a file."""
    if given.stats:
        return _describe(given, overrides)
    if not given.out:
        raise UserError(
            "nothing to do: give --out FILE to write problems, or --stats FILE to describe a file"
        )
    if Path(given.out).exists():
        raise UserError(f"{given.out} exists: name another file with --out")

    config = configs.resolve({"task": {"name": given.task}}, overrides)
    task = load_task(given.task, config.task.options)
    problems = distinct_problems(task, given.split, given.n)
    write_table(given.out, map(task.row, problems))
    print(f"wrote {len(problems)} problems of split {given.split} to {given.out}")
    return 0


def _describe(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print what a file in Countdown's public layout holds."""
    from tinyzero.tasks.countdown import data as countdown_data

    if given.out:
        raise UserError(f"--stats {given.stats} writes nothing: leave out --out {given.out}")
    if overrides:
        raise UserError(
            f"--{next(iter(overrides))} is for writing problems, and --stats only describes a "
            "file: leave one of them out"
        )
    rows = countdown_data.read_rows(given.stats)
    print(json.dumps(countdown_data.stats(rows), indent=2))
    return 0
