"""Tasks: the bundled ones by name, and your own as `path/file.py:Name`.

A bundled task is a folder or a file in this package that defines `TASK`. tasks/base.py shows what a
task has to define.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyzero.errors import UserError, constructing
from tinyzero.registry import Registry, acting, validate
from tinyzero.tasks.base import Task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.tools import TOOL, load_tool, takes_tool

__all__ = [
    "REGISTRY",
    "TASKS",
    "base",
    "bundled",
    "check",
    "corpora",
    "countdown",
    "files",
    "guarded",
    "load_task",
    "mixture",
    "questions",
    "shares",
    "splits",
    "tools",
]

PARTS = (
    "arithmetic",
    "base",
    "check",
    "corpora",
    "files",
    "functions",
    "guarded",
    "prompts",
    "questions",
    "shares",
    "splits",
    "tables",
    "tools",
)
"""The modules of this package that are not tasks."""

NEEDS = ("problem", "prompt", "reward", "solution")
"""The methods that a task must have."""

REGISTRY = Registry("task", __name__, "TASK", PARTS, NEEDS, separator="-")

TASKS = REGISTRY.names()
"""The names of the tasks that ship."""


def load_task(name: str, options: Mapping[str, Any] | None = None) -> GuardedTask:
    """The task called `name`, with its options checked and a guard around its code.

    `name` is one of TASKS, `package.module:Name` or `path/file.py:Name`. `options` are validated by
    the class's `Options`, a pydantic model. The option `tool` gives a tool to any task that has no
    option of this name itself.

    Raises UserError if there is no such task, the class lacks a method, or an option is wrong.

    Example: `load_task("countdown", {"max_number": 25}).problem("train", 0)`.
    """
    task_class = REGISTRY.find(name)
    values = dict(options or {})

    options_model = getattr(task_class, "Options", None)
    tool_name = values.pop(TOOL, None) if takes_tool(options_model) else None
    if options_model is None and values:
        keys = ", ".join(f"task.{key}" for key in values)
        raise UserError(f"task {name} takes no options: remove {keys}")

    arguments = []
    if options_model is not None:
        arguments = [validate(options_model, values, "task")]
    with constructing(f"task {name}", arguments):
        task = task_class(*arguments)

    given: dict[str, Any] = {}
    for asked in arguments:
        own_options: Any = getattr(task, "options", None)
        is_completed = isinstance(own_options, type(asked))  # as by a mixture, with defaults
        given = acting(own_options if is_completed else asked)
    if not tool_name:
        return GuardedTask(task, name, given)

    tool = load_tool(tool_name)
    for method in ("episode", "rewards"):
        if getattr(task_class, method, None) not in (None, getattr(Task, method)):
            raise UserError(
                f"task.tool is {tool_name!r}, but the task {name} has its own {method}: "
                "leave the tool out"
            )
    return GuardedTask(task, name, {**given, TOOL: tool_name}, tool)


def bundled(name: str) -> GuardedTask | None:
    """The task called `name` with its default options if it is bundled, or None.

    The code of a user's task is not run.
    """
    return load_task(name) if name in TASKS else None
