"""Tasks by name. Each is one file beside this one; a user's own is `path/file.py:Name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyzero.errors import UserError, building
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
]

PARTS = ("arithmetic", "base", "check", "corpora", "files", "guarded", "prompts", "splits")
REGISTRY = Registry("task", __name__, "TASK", PARTS, ("problem", "prompt", "reward", "solution"))
TASKS = REGISTRY.names()


def load_task(name: str, options: Mapping[str, Any] | None = None) -> GuardedTask:
    """The task called `name` (a key of TASKS, `package.module:Name` or `path/file.py:Name`) with its options.

    Options are checked by the class's `Options`, a pydantic model, if it has one.
    Raises UserError on an unknown name, a class that is no task, or a wrong option.
    """
    kind, options = REGISTRY.find(name), options or {}
    model = getattr(kind, "Options", None)
    if model is None and options:
        raise UserError(
            f"task {name} takes no options: remove {', '.join(f'task.{key}' for key in options)}"
        )
    given = [] if model is None else [validate(model, options, "task")]
    with building(f"task {name}", given):
        task = kind(*given)
    return GuardedTask(task, name, acting(given[0]) if given else {})


def bundled(name: str) -> GuardedTask | None:
    """The bundled task called `name` with its default options, or None for a user's own, whose code is not run."""
    return load_task(name) if name in TASKS else None
