"""Which plug-in code may run: code that the user named, never code that only a folder names.

A configuration names its task and its algorithm, and a name with a colon is code. A configuration
inside a folder (a run's config.toml, an exported model's recipe.toml) may be a stranger's. So the
code that it names runs only if this command line names it too, or if this user started that run on
this machine. `train` remembers such runs outside their folders, as direnv does.

    $XDG_STATE_HOME/tinyzero/trusted     one SHA-256 per line, readable by its owner alone
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tinyzero.config.schema import Config, parts_of
from tinyzero.config.toml import to_toml
from tinyzero.errors import UserError
from tinyzero.registry import lasting_reference

KINDS = ("task", "algorithm", "sampler")
CODE_IN_FILE = re.compile(r"\.py:\w+\Z")
LARGEST = 16 * 2**20  # bytes of the state file that are read


def require(
    config: Config,
    source: str | Path,
    kinds: Iterable[str] = KINDS,
    flags: str = "--trust",
    allowed: Collection[str] = (),
) -> None:
    """Raise UserError if `config`, found in the file `source`, would run code that was not allowed.

    `kinds` are the parts of it that the command is going to load, and `allowed` the names of code
    that need no permission; `flags` say how to allow the others.
    """
    for kind, name in ((part, name) for part in kinds for name in names_of(config, part)):
        if name in allowed or fingerprint(config, name) in _remembered():
            continue

        raise UserError(
            f"{source} names the {kind} {name!r}, which would run {code_of(name)!r}: "
            f"if you trust that code, allow it with {flags}"
        )


def named_by_user(config: Config, final: Config, overrides: Mapping[str, object]) -> set[str]:
    """The names of code in `config` that `overrides` name too, or that are not in `final` any more.

    `final` is the configuration with the overrides.
    """
    given = {lasting_reference(text) for text in _texts_in(list(overrides.values()))}
    before, after = ({n for kind in KINDS for n in names_of(c, kind)} for c in (config, final))
    return given | (before - after)


def names_of(config: Config, kind: str) -> list[str]:
    """The names of code in one part of `config`: its own name, and options such as `file.py:name`.

    A task also names the code of its tool, and a mixture that of its tasks. Example:
    `names_of(config, "task")` is `["rewards.py:accuracy"]` for rows that are checked by this
    function.
    """
    section = getattr(config, kind)
    names = [section.name]
    if kind == "task":
        tables = [section.options, *parts_of(section.options)]
        names += [str(table.get(key, "")) for table in tables for key in ("name", "tool")]

    options = section.model_dump(exclude={"name"})
    in_options = [text for text in _texts_in(options) if CODE_IN_FILE.search(text)]
    return list(dict.fromkeys([*(name for name in names if ":" in name), *in_options]))


def _texts_in(value: object) -> list[str]:
    """All texts in the value of an option."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts_in(list(value.values()))
    parts = value if isinstance(value, list | tuple) else ()
    return [text for part in parts for text in _texts_in(part)]


def remember(config: Config) -> None:
    """Note that this user started this run, so that its plug-ins need no permission from now on.

    Does nothing on a machine where this cannot be noted; there the user is asked each time.
    """
    names = [name for kind in KINDS for name in names_of(config, kind)]
    path = state_file()
    new = {fingerprint(config, name) for name in names} - _remembered()
    if path is None or not new:
        return

    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write("".join(f"{line}\n" for line in sorted(new)))


def fingerprint(config: Config, name: str) -> str:
    """A hash of the configuration, whatever its folder, and of where the code of `name` is."""
    text = f"{to_toml(config)}\n{name}\n{code_of(name)}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def code_of(name: str) -> str:
    """The file that loading `name` would run; the module if it cannot be found. Runs nothing."""
    source = name.rpartition(":")[0]
    with suppress(ImportError, ValueError, AttributeError):
        if source.endswith(".py"):
            return os.path.realpath(source)
        # only the outermost package, because looking for a module inside it would import it
        package = find_spec(source.partition(".")[0])
        if package and package.origin:
            return f"{source} ({os.path.realpath(package.origin)})"
    return source


def state_file() -> Path | None:
    """The file that notes what this user started; None for a user without a home folder."""
    chosen = os.environ.get("XDG_STATE_HOME", "")
    with suppress(RuntimeError):
        base = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".local" / "state"
        return base / "tinyzero" / "trusted"
    return None


def _remembered() -> set[str]:
    """The hashes noted before; none if others could have written the file."""
    path = state_file()
    try:
        if path is None:
            return set()
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            others_can_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if status.st_uid != os.getuid() or others_can_write:
                return set()

            return set(file.read(LARGEST).decode("ascii", "replace").split())
    except OSError:
        return set()
