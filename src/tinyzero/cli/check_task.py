"""`tinyzero check-task`: try to fool the grader of a task."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import task_options
from tinyzero.errors import UserError
from tinyzero.registry import load_object
from tinyzero.tasks import load_task

EXAMPLES = """\
  tinyzero check-task my_task.py:MyTask
  tinyzero check-task countdown --task.max_number 25
  tinyzero check-task my_reward.py:reward --data rows.jsonl"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "check-task",
        run,
        "check that a task rewards its own solutions, but not garbage or tricks",
        options=_options,
        examples=EXAMPLES,
        usage="TASK",
    )
    parser.add_argument(
        "task",
        metavar="TASK",
        help="a bundled task or path/file.py:Name; with --data also a reward function with the "
        "signature of TRL or verl",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="rows for a reward function (JSONL): the prompt, the answer, and whatever else the "
        "function takes",
    )
    parser.add_argument(
        "--allow",
        metavar="NAME",
        action="append",
        default=[],
        help="accept a finding, by the name that it ends with; can be given several times",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Check the task and print what was found."""
    from tinyzero.tasks.check import examine

    findings = examine(_task(given, overrides), allow=given.allow)
    for failure in findings.failures:
        print(f"FAILED: {failure}")
    for name in findings.allowed:
        print(f"allowed: {name}")
    for note in findings.notes:
        print(f"note: {note}")

    count = len(findings.failures)
    outcome = f"{count} finding{'s' * (count > 1)}" if count else "every check passed"
    print(f"{given.task}: {outcome} ({findings.summary()})")
    return 1 if count else 0


def _options(
    given: argparse.Namespace | None, overrides: Mapping[str, Any]
) -> list[configs.Option]:
    """The options of the task that is named. A reward function has none."""
    if given and ":" in given.task and not isinstance(load_object(given.task), type):
        return []
    return task_options(given, overrides)


def _task(given: argparse.Namespace, overrides: dict[str, Any]) -> Any:
    """The task that is named, or a reward function and its rows as a task."""
    from tinyzero.tasks.check import RewardFunction

    if ":" in given.task and not isinstance(named := load_object(given.task), type):
        if callable(named) and given.data:
            return RewardFunction(named, given.task.rpartition(":")[2], given.data)
        if callable(named):
            raise UserError(
                f"task {given.task} is a function, not a class: give its rows with --data"
            )
    if given.data:
        raise UserError(
            f"--data is for a reward function, and {given.task} is a task: leave --data out, "
            "or name a function"
        )
    config = configs.resolve({"task": {"name": given.task}}, overrides)
    return load_task(given.task, config.task.options)
