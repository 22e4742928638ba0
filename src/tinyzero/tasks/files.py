"""Writing problems as rows of a file: parquet or JSONL."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinyzero.errors import UserError, short_path

SUFFIXES = (".parquet", ".jsonl")
EXTRA = "is not installed: pip install 'tinyzero[data]'"


def read_json(text: str | bytes) -> Any:
    """The value that a line of somebody else's JSON holds. Raises ValueError if it is not JSON.

    Python raises RecursionError instead if brackets are nested too deeply.

    >>> read_json('{"target": 24}')
    {'target': 24}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers, from 1.

    Raises UserError if the file cannot be read or is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {short_path(path)}: {reason}") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows` (values by column name) to a .parquet or .jsonl file, completely or not at all.

    Raises UserError if the name has another ending, or the file cannot be written.

    Example: `write_table("problems.jsonl", [{"target": 24, "nums": [3, 5, 12]}])`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot write {path}: name a file that ends in .parquet or .jsonl")

    write_rows = _write_parquet if path.suffix == ".parquet" else _write_jsonl
    temporary_folder: str | None = None
    try:
        # A new folder, so that no other file has the name of the unfinished one.
        temporary_folder = tempfile.mkdtemp(prefix=".tmp-", dir=path.parent)
        unfinished = Path(temporary_folder, path.name)
        write_rows(unfinished, rows)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary_folder:
            shutil.rmtree(temporary_folder, ignore_errors=True)


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"cannot write {path}: pyarrow {EXTRA}") from error

    try:
        table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"these rows do not fit into a parquet table ({reason}): write a .jsonl file"
        ) from error
    pyarrow.parquet.write_table(table, path)


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(row)) + "\n" for row in rows)
