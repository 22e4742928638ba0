"""`tinyzero data`: write problems, or describe such a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from tinyzero import config as configs
from tinyzero.cli.arguments import task_overrides, up_to
from tinyzero.errors import UserError
from tinyzero.evaluate import distinct_problems
from tinyzero.tasks import load_task
from tinyzero.tasks.files import write_table
from tinyzero.types import SPLITS

MOST_ROWS = 10**7


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "data",
        run,
        "write a task's problems to a file, or describe one in Countdown's public layout",
    )
    parser.add_argument("task", nargs="?", default="countdown", help="(default: countdown)")
    parser.add_argument(
        "--n", type=up_to(MOST_ROWS), default=1000, help="distinct problems (default: 1000)"
    )
    parser.add_argument("--split", choices=SPLITS, default="train", help="(default: train)")
    parser.add_argument("--out", metavar="FILE", help="a .parquet or .jsonl file to write")
    parser.add_argument(
        "--stats", metavar="FILE", help="describe this file (or hub dataset id) instead"
    )


def run(given: argparse.Namespace, rest: list[str]) -> int:
    if given.stats:
        return _describe(given, rest)
    if not given.out:
        raise UserError(
            "nothing to do: give --out FILE to write problems, or --stats FILE to describe a file"
        )
    if Path(given.out).exists():
        raise UserError(f"{given.out} exists: name another file with --out")
    config = configs.resolve({"task": {"name": given.task}}, task_overrides(rest))
    task = load_task(given.task, config.task.options)
    problems = distinct_problems(task, given.split, given.n)
    write_table(given.out, map(task.row, problems))
    print(f"wrote {len(problems)} problems of split {given.split} to {given.out}")
    return 0


def _describe(given: argparse.Namespace, rest: list[str]) -> int:
    """What a file in Countdown's public layout holds."""
    from tinyzero.tasks.countdown import data as countdown_data

    if given.out:
        raise UserError(f"--stats {given.stats} writes nothing: leave out --out {given.out}")
    if rest:
        raise UserError(
            f"{rest[0]} is for problems that are written, and --stats writes none: leave one out"
        )
    print(json.dumps(countdown_data.stats(countdown_data.read_rows(given.stats)), indent=2))
    return 0
