"""Tasks by name. Each is one file beside this one; a user's own is `path/file.py:Name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyzero.errors import UserError, building
from tinyzero.registry import load_object, suggest, validate
from tinyzero.tasks.guarded import GuardedTask

TASKS = {
    "countdown": "tinyzero.tasks.countdown.task:Countdown",
    "multiplication": "tinyzero.tasks.multiplication.task:Multiplication",
}


def load_task(name: str, options: Mapping[str, Any] | None = None) -> GuardedTask:
    """The task called `name` (a key of TASKS, `package.module:Name` or `path/file.py:Name`) with its options.

    Options are checked by the class's `Options`, a pydantic model, if it has one.
    Raises UserError on an unknown name, a class that is no task, or a wrong option.
    """
    kind = find(name)
    return GuardedTask(_build(kind, name, options or {}), name, options or {})


def find(name: str) -> type:
    """The class behind a name. Raises UserError where there is none, or it lacks what a task needs."""
    if name not in TASKS and ":" not in name:
        raise UserError(
            f"unknown task {name!r}{suggest(name, TASKS)} (your own: package.module:Name, path/file.py:Name)"
        )
    kind = load_object(TASKS.get(name, name))
    if not isinstance(kind, type):
        raise UserError(
            f"task {name} is {type(kind).__name__}, not a class: name a class with the methods of a Task"
        )
    missing = [
        method
        for method in ("problem", "prompt", "reward", "solution")
        if not hasattr(kind, method)
    ]
    if missing:
        raise UserError(
            f"task {name} lacks {', '.join(missing)}: a Task has problem, prompt, reward and solution"
        )
    return kind


def _build(kind: type, name: str, options: Mapping[str, Any]) -> Any:
    model = getattr(kind, "Options", None)
    if model is None and options:
        raise UserError(
            f"task {name} takes no options: remove {', '.join(f'task.{key}' for key in options)}"
        )
    given = [] if model is None else [validate(model, options, "task")]
    with building(f"task {name}", given):
        return kind(*given)
