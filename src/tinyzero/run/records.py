"""What a run writes about itself: one JSON object a line, the meaning of every key, and the console."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinyzero.errors import UserError

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
            f"cannot write {path}: {error.strerror}; make room or make it writable, then resume"
        ) from error


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file, without a last line torn by a crash. No file, no records.

    Raises UserError naming the line where another one is damaged.
    """
    return (record for _, record in _lines(path))


def follow(path: Path, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines of a growing JSONL file from byte `offset` on: (the offset after it, the record).

    A last line that is not whole yet is left for the next time. Raises UserError as `read` does.
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
                        f"the line at byte {offset} of {path} is not a JSON object: mend or remove it"
                    )
                return
            offset += len(line)
            yield offset, record


def lengths(folder: Path) -> dict[str, int]:
    """By name, how many bytes a run has recorded in each of its files."""
    paths = {name: folder / name for name in FILES}
    return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}


def seal(path: Path, length: int) -> tuple[int, str]:
    """Flush a file of records to the disk; returns the length and the SHA-256 of its first `length` bytes."""
    if not length:
        return NOTHING
    with path.open("rb") as file:
        os.fsync(file.fileno())
        content = file.read(length)
    return len(content), hashlib.sha256(content).hexdigest()


def cut(path: Path, length: int, sha256: str) -> None:
    """Shorten a file of records to what was sealed, all at once or not at all.

    Raises UserError if it does not begin with that: a line was lost, added, moved or changed.
    """
    found = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(found[:length]).hexdigest() != sha256:
        raise UserError(
            f"{path} is not what it was when the newest checkpoint was saved: "
            "put it back as it was, or begin another run"
        )
    if len(found) == length:
        return
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(found[:length])
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)  # a file of its own, so that who follows the old one notices
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; make room or make it writable, then resume"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line as it stands in the file, without its newline, and its record."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            record = _record(line)
            if record is not None:
                if not isinstance(record.get("step"), int):
                    raise UserError(f"line {number} of {path} has no step: mend or remove it")
                yield line.rstrip(b"\n"), record
            elif file.read(1):  # not the last line, so no crash tore it
                raise UserError(f"line {number} of {path} is not a JSON object: mend or remove it")


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _finite(value: Any) -> Any:
    """`value` as strict JSON can hold it: no number in it is infinite or NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
