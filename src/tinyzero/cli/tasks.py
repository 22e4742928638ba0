"""`tinyzero tasks`: the tasks that a model can be trained on, and their options."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.parsing import metavar
from tinyzero.errors import UserError, printable
from tinyzero.tasks import REGISTRY, TASKS, load_task
from tinyzero.tasks.base import NoSolution
from tinyzero.tasks.guarded import GuardedTask

EXAMPLES = """\
  tinyzero tasks                       every bundled task
  tinyzero tasks countdown             one task, with an example problem
  tinyzero tasks my_task.py:MyTask     a task of your own"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "tasks", run, "list the tasks, or describe one with its options", examples=EXAMPLES
    )
    name: Any = parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a bundled task, or path/file.py:Name"
    )
    name.completer = lambda **_: TASKS


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print all tasks, or one in full."""
    if given.name:
        print(_description(given.name))
        return 0

    for name in TASKS:
        keys = ", ".join(option.key for option in configs.own_options("task", name))
        print(f"{name}\n    {REGISTRY.docstring(name).partition(chr(10))[0]}")
        print(
            textwrap.fill(f"options: {keys}", 80, initial_indent="    ", subsequent_indent=" " * 8)
        )
    print("\nDescribe one of them, or your own: tinyzero tasks NAME")
    return 0


def _description(name: str) -> str:
    """What a task is, one of its problems with a right answer, and its options."""
    lines = [name, "", REGISTRY.docstring(name), "", *_example(load_task(name))]
    return "\n".join([*lines, "", *option_lines(configs.own_options("task", name))])


def _example(task: GuardedTask) -> list[str]:
    """One of the task's problems with a right answer, or what the task needs before it has any."""
    try:
        problem = task.problem("dev", 0)
    except UserError as error:
        return [f"it has no example: {error}"]

    prompt = task.prompt(problem, "compact")
    texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]

    lines = ["a prompt:", *(textwrap.indent(printable(text), "    ") for text in texts)]
    with suppress(NoSolution):
        solution = task.solution(problem)
        for turn in [solution] if isinstance(solution, str) else solution:
            lines += ["a right answer:", textwrap.indent(printable(turn), "    ")]
    return lines


def option_lines(options: list[configs.Option]) -> list[str]:
    """Options with their meanings and defaults, for lines of 80 columns."""
    if not options:
        return ["it has no options"]

    lines = ["options:"]
    for option in options:
        default = "not set" if option.value is None else f"{option.value}"
        text = f"{option.meaning} [default: {default or 'empty'}]"
        lines += [
            f"  --{option.key} {metavar(option)}",
            textwrap.indent(textwrap.fill(text, 72), " " * 6),
        ]
    return lines
