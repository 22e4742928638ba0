"""Tasks: the bundled ones by name, and your own as `path/file.py:Name`.

A bundled task is a folder or a file in this package that defines `TASK`. tasks/base.py shows what a
task has to define.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyzero.errors import UserError, constructing
from tinyzero.registry import Registry, acting, validate
from tinyzero.tasks.guarded import GuardedTask

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
    "questions",
    "splits",
]

PARTS = (
    "arithmetic",
    "base",
    "check",
    "corpora",
    "files",
    "guarded",
    "prompts",
    "questions",
    "splits",
)
"""The modules of this package that are not tasks."""

REGISTRY = Registry("task", __name__, "TASK", PARTS, ("problem", "prompt", "reward", "solution"))

TASKS = REGISTRY.names()
"""The names of the tasks that ship."""


def load_task(name: str, options: Mapping[str, Any] | None = None) -> GuardedTask:
    """The task called `name`, with its options checked and a guard around its code.

    `name` is one of TASKS, `package.module:Name` or `path/file.py:Name`. `options` are validated by
    the class's `Options`, a pydantic model.

    Raises UserError if there is no such task, the class lacks a method, or an option is wrong.

    Example: `load_task("countdown", {"max_number": 25}).problem("train", 0)`.
    """
    task_class = REGISTRY.find(name)
    values = options or {}

    options_model = getattr(task_class, "Options", None)
    if options_model is None and values:
        keys = ", ".join(f"task.{key}" for key in values)
        raise UserError(f"task {name} takes no options: remove {keys}")

    arguments = []
    if options_model is not None:
        arguments = [validate(options_model, values, "task")]
    with constructing(f"task {name}", arguments):
        task = task_class(*arguments)

    return GuardedTask(task, name, acting(arguments[0]) if arguments else {})


def bundled(name: str) -> GuardedTask | None:
    """The task called `name` with its default options if it is bundled, or None.

    The code of a user's task is not run.
    """
    return load_task(name) if name in TASKS else None
