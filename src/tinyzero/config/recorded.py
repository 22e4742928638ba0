"""The two files in which a run records its configuration.

`asked.toml` is what the user asked for: the recipe's own tables with the changes from the command
line, and the command line itself. `config.toml` holds the result: every option that has an
effect, including the defaults, with a comment that explains it and says which file or option set
it. Either of them repeats the run: `tinyzero train RUN/asked.toml`.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyzero import __version__
from tinyzero.config import trust
from tinyzero.config.recipe import ASKED, MEANT, read_recipe, resolve
from tinyzero.config.schema import Config
from tinyzero.config.toml import flat, read_toml, set_option, tables_to_toml, to_toml
from tinyzero.errors import UserError
from tinyzero.registry import lasting_reference

RESUMABLE = (
    "steps",
    "eval.",
    "checkpoint.",
    "grading.",
    "run.rollouts",
    "run.price",
    "run.track",
    "model.threads",
)
"""The options that may change when a run is resumed, by how their keys begin."""


@dataclass(frozen=True)
class Command:
    """The command behind a run: the command line, the options it gave by dotted key, the recipe.

    `note` is what to tell the user about the configuration when the run starts.
    """

    line: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    note: str | None = None


def asked(config: Config) -> dict[str, Any]:
    """The tables that were asked for: what a recipe and a command line say, without defaults."""
    return config.model_dump(exclude_unset=True)


def asked_toml(
    tables: Mapping[str, Any], lines: Sequence[str], recipe: str = "", options: Sequence[str] = ()
) -> str:
    """The text of a run's asked.toml.

    `lines` are the command lines of the run: the first one started it, the others resumed it.
    `recipe` is the recipe's name, and `options` are the keys that a command line set.
    """
    command = {
        "version": __version__,
        "lines": list(lines),
        "recipe": recipe,
        "options": list(options),
    }
    return tables_to_toml({**tables, "command": command})


def asked_again(folder: Path, command: Command) -> str | None:
    """The text of asked.toml after a `command` that resumed the run with options of its own.

    None if there is nothing to change: no options were given, or the run has no asked.toml.
    """
    path = folder / ASKED
    if not command.options or not path.is_file():
        return None

    tables = read_toml(path)
    before = tables.pop("command", None)
    lines, options = _texts(before, "lines"), _texts(before, "options")
    recipe = before.get("recipe", "") if isinstance(before, dict) else ""
    for key, value in command.options.items():
        set_option(tables, key, value)

    lines += [command.line] if command.line else []
    return asked_toml(tables, lines, recipe, list(dict.fromkeys([*options, *command.options])))


def read_asked_tables(folder: Path) -> dict[str, Any]:
    """The tables of the asked.toml of the run in `folder`; none if it has no such file."""
    path = folder / ASKED
    return read_toml(path) if path.is_file() else {}


def read_asked(folder: Path) -> Config:
    """What was asked of the run in `folder`, with the defaults of this version for the rest.

    Raises UserError if it has no asked.toml.
    """
    path = folder / ASKED
    if not path.is_file():
        raise UserError(
            f"{folder} has no {ASKED}, so its options are unknown (version 0.1 wrote none): "
            "move the folder away"
        )
    return resolve(read_recipe(str(path)), {})


def read_recorded(folder: Path) -> Config:
    """The configuration in a run's folder, which says every option.

    Raises UserError if an option is missing.
    """
    path = folder / MEANT
    values = read_recipe(str(path))
    config = resolve(values, {})

    recorded = flat(values)
    missing = [key for key in flat(tomllib.loads(to_toml(config))) if key not in recorded]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing[:3])}: it is damaged, or another version wrote it"
        )
    return config


def resumed(
    folder: Path, overrides: Mapping[str, Any], task: str | None, trusted: bool, flags: str
) -> Config:
    """The configuration to continue the run in `folder` with.

    `task` is the task's name if the user gave it again, which allows its code. Raises UserError if
    there is no run, an override would make it another run, or the folder names code that was not
    allowed; `flags` say how to allow it.
    """
    if not (folder / MEANT).is_file():
        raise UserError(f"no run at {folder}: it has no {MEANT}")
    for key in overrides:
        if not key.startswith(RESUMABLE):
            raise UserError(f"{key} cannot change when a run is resumed: start another run with it")

    config = read_recorded(folder)
    if task is not None and lasting_reference(task) != config.task.name:
        raise UserError(f"the run in {folder} has the task {config.task.name!r}, not {task!r}")
    if not trusted:
        trust.require(
            config, folder / MEANT, trust.KINDS, flags, {config.task.name} if task else ()
        )
    return resolve(config.model_dump(), overrides)


def require_recipe(
    recipe: str, overrides: Mapping[str, Any], trusted: bool, flags: str = "--trust"
) -> None:
    """Raise UserError if `recipe` is a run's or model's file and names code that was not allowed.

    Users trust their own recipe files by naming them. A file inside a run or a model folder may be
    a stranger's, so the code that it names runs only if `overrides` name it too, or if this user
    started that very run.
    """
    path = Path(recipe)
    if trusted or path.name not in (ASKED, MEANT, "recipe.toml"):
        return

    signs = ("config.json", "checkpoints", "metrics.jsonl", "eval.jsonl", "rollouts.jsonl")
    others = [name for name in (*signs, ASKED, MEANT) if name != path.name]
    if not any((path.parent / name).exists() for name in others):
        return

    config = resolve(read_recipe(recipe), {})
    kinds = [kind for kind in trust.KINDS if f"{kind}.name" not in overrides]
    meant = path.with_name(MEANT)
    if path.name == ASKED and meant.is_file():
        recorded = resolve(read_recipe(str(meant)), {})
        named = [(trust.names_of(config, kind), trust.names_of(recorded, kind)) for kind in kinds]
        if all(here == there or ":" not in "".join(here) for here, there in named):
            config = recorded  # what was remembered when the run began
    final = resolve(read_recipe(recipe), overrides)
    allowed = trust.named_by_user(config, final, overrides)
    trust.require(config, path, trust.KINDS, flags, allowed)


def repeating(folder: Path) -> str:
    """The command that repeats the run in `folder`.

    It is the command that started the run if there was only one; otherwise it names the file.
    """
    path = folder / ASKED
    lines = _texts(read_toml(path).get("command"), "lines") if path.is_file() else []
    if len(lines) == 1:
        return lines[0]
    return f"tinyzero train {shlex.quote(str(path if path.is_file() else folder / MEANT))}"


def lasting(config: Config) -> dict[str, Any]:
    """Every option that may not change while a run lasts, by dotted key."""
    options = flat(config.model_dump(mode="json", exclude_none=True))
    return {
        key: value
        for key, value in options.items()
        if key != "run.dir" and not key.startswith(RESUMABLE)
    }


def _texts(command: Any, key: str) -> list[str]:
    """A list of texts in the [command] table of an asked.toml; empty if it is missing."""
    texts = command.get(key) if isinstance(command, dict) else None
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
