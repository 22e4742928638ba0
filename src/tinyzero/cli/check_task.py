"""`tinyzero check-task`: try to fool the grader of a task."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import task_options, up_to
from tinyzero.errors import UserError
from tinyzero.registry import load_object
from tinyzero.tasks import REGISTRY, load_task

PROBLEMS = 200  # of each split
PROBLEMS_OF_EACH = 2  # of each split, for each variant

EXAMPLES = """\
  tinyzero check-task my_task.py:MyTask
  tinyzero check-task countdown --task.max_number 25
  tinyzero check-task my_reward.py:reward --data rows.jsonl
  tinyzero check-task reasoning-gym --all --limit 120"""


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
    parser.add_argument(
        "--all",
        action="store_true",
        help="check every variant of the task, such as each dataset of reasoning-gym, and print a "
        "table",
    )
    parser.add_argument(
        "--problems",
        metavar="N",
        type=up_to(10_000),
        help="problems of each split to draw (default: 200, or 2 with --all)",
    )
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=up_to(100_000),
        default=300,
        help="seconds that each variant may take with --all (default: 300)",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Check the task and print what was found."""
    from tinyzero.tasks.check import examine

    if given.all:
        return _check_all(given, overrides)

    findings = examine(_task(given, overrides), given.problems or PROBLEMS, allow=given.allow)
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


def _check_all(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Check every variant of the task, and print a table of the results."""
    from tinyzero.tasks.check import variants

    task_class = REGISTRY.find(given.task)
    options_by_name = getattr(task_class, "variants", {})
    if not options_by_name:
        raise UserError(f"task {given.task} has no variants: leave --all out")

    config = configs.resolve({"task": {"name": given.task}}, overrides)
    tasks = {
        name: load_task(given.task, {**config.task.options, **options})
        for name, options in options_by_name.items()
    }
    rows = []

    def kept() -> Iterator[variants.Row]:
        problems = given.problems or PROBLEMS_OF_EACH
        for row in variants.check_variants(tasks, problems, given.limit, given.allow):
            rows.append(row)
            yield row

    for line in variants.table_lines(given.task, kept(), list(tasks)):
        print(line, flush=True)
    passed = sum(row.passed for row in rows)
    print(f"\n{passed} of {len(rows)} passed")
    return 0 if passed == len(rows) else 1


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
