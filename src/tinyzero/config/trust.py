"""Which plug-in code may run: what a user named himself, never what a folder says by itself.

A configuration names its task and its algorithm, and a name with a colon is code. Where that
configuration was found inside a folder (a run's config.toml, an exported model's recipe.toml), the
folder may be a stranger's. So its code runs only if it was named on this command line, or if this
user started that very run on this machine: `train` remembers it outside the folder, as direnv does.

    $XDG_STATE_HOME/tinyzero/trusted     one SHA-256 a line, for its owner alone
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tinyzero.config.recipe import to_toml
from tinyzero.config.schema import Config
from tinyzero.errors import UserError

KINDS = ("task", "algorithm", "sampler")
LARGEST = 16 * 2**20  # bytes of the state file that are read


def require(
    config: Config, source: str | Path, kinds: Iterable[str] = KINDS, flags: str = "--trust"
) -> None:
    """Raise UserError if `config`, found in the file `source`, would run code that nobody allowed.

    `kinds` are what the command is going to load of it; `flags` are what allows it there.
    """
    for kind in kinds:
        name = getattr(config, kind).name
        if ":" not in name or fingerprint(config, name) in _remembered():
            continue
        raise UserError(
            f"{source} names the {kind} {name!r}, which would run {code_of(name)!r}: "
            f"if you trust that code, allow it with {flags}"
        )


def remember(config: Config) -> None:
    """Note that this user started this run, so that its own plug-ins need no leave from now on.

    A machine that has no place to note it will ask.
    """
    names = [getattr(config, kind).name for kind in KINDS]
    path = state_file()
    new = {fingerprint(config, name) for name in names if ":" in name} - _remembered()
    if path is None or not new:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write("".join(f"{line}\n" for line in sorted(new)))


def fingerprint(config: Config, name: str) -> str:
    """A hash of the configuration, whatever folder it lies in, and of where the code of `name` is."""
    text = f"{to_toml(config)}\n{name}\n{code_of(name)}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def code_of(name: str) -> str:
    """The file that loading `name` would run; the module if it cannot be found. Runs nothing."""
    place = name.rpartition(":")[0]
    with suppress(ImportError, ValueError, AttributeError):
        if place.endswith(".py"):
            return os.path.realpath(place)
        # only the outermost package: to look for a module within would import that
        found = find_spec(place.partition(".")[0])
        if found and found.origin:
            return f"{place} ({os.path.realpath(found.origin)})"
    return place


def state_file() -> Path | None:
    """Where is noted what this user started; None if he has no home."""
    given = os.environ.get("XDG_STATE_HOME", "")
    with suppress(RuntimeError):
        base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
        return base / "tinyzero" / "trusted"
    return None


def _remembered() -> set[str]:
    """The hashes noted before. A file that others could have written counts for nothing."""
    path = state_file()
    try:
        if path is None:
            return set()
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return set()
            return set(file.read(LARGEST).decode("ascii", "replace").split())
    except OSError:
        return set()
