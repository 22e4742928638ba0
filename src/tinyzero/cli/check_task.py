"""`tinyzero check-task`: try to fool a task's grader."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tinyzero import config as configs
from tinyzero.cli.arguments import task_overrides
from tinyzero.tasks import load_task


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "check-task",
        run,
        "prove that a task grades its own solutions, garbage and nonsense as it should",
    )
    parser.add_argument(
        "task", help="countdown, multiplication, package.module:Name or path/file.py:Name"
    )


def run(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tasks.check import check_task

    config = configs.resolve({"task": {"name": given.task}}, task_overrides(rest))
    failures = check_task(load_task(given.task, config.task.options))
    for failure in failures:
        print(f"FAILED: {failure}")
    if not failures:
        print(f"{given.task}: every check passed")
    return 1 if failures else 0
