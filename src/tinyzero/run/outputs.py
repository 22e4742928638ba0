"""One rule for every output: it appears whole or not at all, and replaces only files of its kind.

An output is first written into a temporary folder next to its final path, flushed to the disk, and
then renamed. Nothing else is ever removed.
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
LARGEST = 64 * 2**20  # bytes; a larger JSON file is not read to find out whether it is ours


@contextmanager
def whole(
    path: Path, is_ours: Callable[[Path], bool] | None = None, fix: str = "name another"
) -> Iterator[Path]:
    """Yields the path to write a file or folder to, which then becomes `path`.

    Something that is already at `path` is replaced only if `is_ours` is true for it; without
    `is_ours`, nothing is replaced. If the block raises, `path` stays as it was.

    Raises UserError, whose message ends with `fix`, if `path` holds something else or cannot be
    written.

    Example:

        with whole(Path("figures.json"), is_figures) as temporary:
            temporary.write_text(json.dumps(figures))
    """
    refuse_others(path, is_ours, fix)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is not a folder; make it, or {fix}")

    temporary_folder: Path | None = None
    try:
        temporary_folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
        temporary = temporary_folder / path.name
        yield temporary
        _flush(temporary)
        refuse_others(path, is_ours, fix)  # it may have been made meanwhile
        _put(temporary, path, aside=temporary_folder / "before")
        _flush_one(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; make room, or {fix}") from error
    finally:
        if temporary_folder:
            shutil.rmtree(temporary_folder, ignore_errors=True)


def refuse_others(
    path: Path, is_ours: Callable[[Path], bool] | None = None, fix: str = "name another"
) -> None:
    """Raise UserError if there is something at `path` that `whole` would not replace."""
    if not os.path.lexists(path):
        return
    if is_ours is None:
        raise UserError(f"{path} exists: {fix}, or remove it first")
    try:
        is_plain = path.is_file() or path.is_dir()  # reading a pipe would wait forever
        ours = is_plain and not path.is_symlink() and is_ours(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {fix}") from None
    if not ours:
        raise UserError(
            f"{path} exists and was not written by this command: {fix}, or remove it first"
        )


def require_folder(path: Path, fix: str) -> None:
    """Raise UserError if the folder of `path` does not exist, before hours of work begin."""
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; {fix}")


def is_report(path: Path) -> bool:
    """Whether a file is a page of `tinyzero report`."""
    with path.open("rb") as file:
        start = file.read(4096)

    # pages of version 0.1 do not name a generator, but have our title and the same first line
    marks = (REPORT.encode(), " · TinyZero</title>".encode())
    return start.startswith(b"<!doctype html>") and any(mark in start for mark in marks)


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
    """Whether a file is a recipe like those that a grid writes for its runs."""
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
    """Rename `temporary` to `path`. A folder there is moved aside, and back if that fails."""
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
    """The JSON object in a file; an empty one if the file holds something else."""
    if path.stat().st_size > LARGEST:
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _flush(path: Path) -> None:
    """Wait until a file, or a folder with everything in it, is on the disk."""
    for entry in [*path.rglob("*"), path] if path.is_dir() else [path]:
        _flush_one(entry)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
