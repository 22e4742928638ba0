"""`tinyzero check-task`: try to fool a task's grader."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import task_overrides
from tinyzero.errors import UserError
from tinyzero.registry import load_object
from tinyzero.tasks import load_task


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "check-task",
        run,
        "prove that a task grades its own solutions, garbage and nonsense as it should",
    )
    parser.add_argument(
        "task",
        help="countdown, multiplication, package.module:Name or path/file.py:Name; with --data also "
        "a reward function with TRL's or verl's signature",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="a JSONL file for a reward function: a column prompt, the answer, and what it needs",
    )
    parser.add_argument(
        "--allow",
        metavar="NAME",
        action="append",
        default=[],
        help="what may be paid or done, by the name that a finding ends with (repeatable)",
    )


def run(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tasks.check import examine

    found = examine(_task(given, rest), allow=given.allow)
    for failure in found.failures:
        print(f"FAILED: {failure}")
    for name in found.allowed:
        print(f"paid, and allowed: {name}")
    for note in found.notes:
        print(f"note: {note}")
    found_many = f"{len(found.failures)} finding{'s' * (len(found.failures) > 1)}"
    outcome = found_many if found.failures else "every check passed"
    print(f"{given.task}: {outcome} ({found.summary()})")
    return 1 if found.failures else 0


def _task(given: argparse.Namespace, rest: list[str]) -> Any:
    """The task that is named, or the reward function with its rows as one."""
    from tinyzero.tasks.check import RewardFunction

    overrides = task_overrides(rest)
    if ":" in given.task and not isinstance(named := load_object(given.task), type):
        if callable(named) and given.data:
            return RewardFunction(named, given.task.rpartition(":")[2], given.data)
        if callable(named):
            raise UserError(
                f"task {given.task} is a function, not a class: give its rows by --data"
            )
    if given.data:
        raise UserError(
            f"--data is for a reward function, and {given.task} is a task: leave --data out, "
            "or name a function"
        )
    config = configs.resolve({"task": {"name": given.task}}, overrides)
    return load_task(given.task, config.task.options)
