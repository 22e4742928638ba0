"""The files in which a run records what it did: JSONL, with one JSON object per line."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyzero.errors import UserError, short_path

FILES = ("metrics.jsonl", "eval.jsonl", "rollouts.jsonl")
NOTHING = (0, hashlib.sha256().hexdigest())  # an empty file, sealed


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add `record` to a JSONL file as one line; a number that is not finite is written as null."""
    line = json.dumps(_finite(record), allow_nan=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise UserError(
            f"cannot write {short_path(path)}: {error.strerror}; "
            "make room or make it writable, then resume"
        ) from error


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; none if there is no file.

    A last line that a crash tore is left out. Raises UserError if another line is damaged.
    """
    return (record for _, record in _lines(path))


def follow(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a growing JSONL file from byte `offset` on, each with the offset after it.

    A last line that is not whole yet is left for the next time. Raises UserError if another line is
    damaged.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            record = _record(line)
            if record is None:
                if file.read(1):  # not the last line, so no crash tore it
                    raise UserError(
                        f"the line at byte {offset} of {short_path(path)} is not a JSON object: "
                        "fix or delete it"
                    )
                return
            offset += len(line)
            yield offset, record


def lengths(folder: Path) -> dict[str, int]:
    """The number of bytes in each of a run's files of records, by name."""
    paths = {name: folder / name for name in FILES}
    return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}


def seal(path: Path, length: int) -> tuple[int, str]:
    """Flush a file of records to the disk; returns length and SHA-256 of its first `length` bytes.

    The returned length is smaller if the file is.
    """
    if not length:
        return NOTHING
    with path.open("rb") as file:
        os.fsync(file.fileno())
        content = file.read(length)
    return len(content), hashlib.sha256(content).hexdigest()


def cut(path: Path, length: int, sha256: str) -> None:
    """Shorten a file of records to what was sealed, completely or not at all.

    Raises UserError if it does not begin with that: a line was lost, added, moved or changed.
    """
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content[:length]).hexdigest() != sha256:
        raise UserError(
            f"{short_path(path)} has changed since the newest checkpoint was saved: "
            "restore it, or begin another run"
        )
    if len(content) == length:
        return

    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(content[:length])
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)  # a new file, so that a reader of the old one notices
    except OSError as error:
        raise UserError(
            f"cannot write {short_path(path)}: {error.strerror}; "
            "make room or make it writable, then resume"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line of the file without its newline, and its record."""
    if not path.exists():
        return

    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            record = _record(line)
            if record is not None:
                if not isinstance(record.get("step"), int):
                    raise UserError(
                        f"line {number} of {short_path(path)} has no step: fix or delete it"
                    )
                yield line.rstrip(b"\n"), record
            elif file.read(1):  # not the last line, so no crash tore it
                raise UserError(
                    f"line {number} of {short_path(path)} is not a JSON object: fix or delete it"
                )


def _record(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line, or None if there is not one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _finite(value: Any) -> Any:
    """`value` with null for each number that is infinite or NaN, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
