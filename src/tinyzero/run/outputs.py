"""Every output has one rule: written whole or not at all, over nothing but one of its own kind.

What is being written lies in a folder that this process made beside the output, under a name of its
own. It is flushed to the disk and renamed; nothing else is ever removed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyzero.config import Config, read_toml
from tinyzero.errors import UserError

REPORT = '<meta name="generator" content="tinyzero report">'
LARGEST = 64 * 2**20  # bytes of an old output that are read to know it again


@contextmanager
def whole(
    path: Path, is_ours: Callable[[Path], bool] | None = None, fix: str = "name another"
) -> Iterator[Path]:
    """Yields where to write the file or folder that is to become `path`.

    What stands at `path` already is replaced only if `is_ours` holds for it; without that, nothing
    is. If the block raises, `path` is as it was. Raises UserError, which ends with
    `fix`, if something else stands there, or the disk refuses.

    Example:
        with whole(Path("figures.json"), is_figures) as temporary:
            temporary.write_text(json.dumps(figures))
    """
    refuse_others(path, is_ours, fix)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is no folder; make it, or {fix}")
    beside: Path | None = None
    try:
        beside = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
        temporary = beside / path.name
        yield temporary
        _flush(temporary)
        refuse_others(path, is_ours, fix)  # it may have been made meanwhile
        _put(temporary, path, aside=beside / "before")
        _flush_one(path.parent)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {why}; make room, or {fix}") from error
    finally:
        if beside:
            shutil.rmtree(beside, ignore_errors=True)


def refuse_others(
    path: Path, is_ours: Callable[[Path], bool] | None = None, fix: str = "name another"
) -> None:
    """Raise UserError if something stands at `path` that `whole` would not replace."""
    if not os.path.lexists(path):
        return
    if is_ours is None:
        raise UserError(f"{path} exists: {fix}, or remove it first")
    try:
        plain = path.is_file() or path.is_dir()  # no pipe, which would be waited for
        ours = plain and not path.is_symlink() and is_ours(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {fix}") from None
    if not ours:
        raise UserError(f"{path} exists and is not what this writes: {fix}, or remove it first")


def require_folder(path: Path, fix: str) -> None:
    """Raise UserError if `path` lies in a folder that does not exist: said now, and not after hours."""
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; {fix}")


def is_report(path: Path) -> bool:
    """Whether a file is a page of `tinyzero report`."""
    with path.open("rb") as file:
        start = file.read(4096)
    # pages of version 0.1 have no generator, but our title and the first line of the page
    ours = (REPORT.encode(), " · TinyZero</title>".encode())
    return start.startswith(b"<!doctype html>") and any(mark in start for mark in ours)


def is_figures(path: Path) -> bool:
    """Whether a file holds what `tinyzero eval --json` writes."""
    return "model" in _json(path)


def is_comparison(path: Path) -> bool:
    """Whether a file is one that `tinyzero ablate` writes: its JSON, its table or its picture."""
    if path.suffix == ".json":
        return "results" in _json(path) and "grid" in _json(path)
    with path.open("rb") as file:
        start = file.read(4096)
    return start.startswith(b"|  | before | after |" if path.suffix == ".md" else b"\x89PNG")


def is_settings(path: Path) -> bool:
    """Whether a file is a recipe such as a grid writes for each of its runs."""
    try:
        tables = read_toml(path)
        return "seed" in tables and tables.keys() <= Config.model_fields.keys()
    except UserError:
        return False


def is_base(path: Path) -> bool:
    """Whether a folder holds a model that `tinyzero pretrain` wrote."""
    card = path / "README.md"
    return card.is_file() and "`tinyzero pretrain" in card.read_text(encoding="utf-8")


def _put(temporary: Path, path: Path, aside: Path) -> None:
    """Rename `temporary` to `path`; a folder there gives way, and comes back if that fails."""
    if not path.is_dir():
        os.replace(temporary, path)
        return
    path.rename(aside)
    try:
        temporary.rename(path)
    except OSError:
        aside.rename(path)
        raise


def _json(path: Path) -> dict[str, object]:
    """The object in a file; an empty one if it holds none."""
    if path.stat().st_size > LARGEST:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _flush(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for entry in [*path.rglob("*"), path] if path.is_dir() else [path]:
        _flush_one(entry)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
