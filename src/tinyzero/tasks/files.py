"""Problems as rows of a file: parquet or JSONL."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinyzero.errors import UserError

SUFFIXES = (".parquet", ".jsonl")
EXTRA = "is not installed: pip install 'tinyzero[data]'"


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows`, columns by name, to a .parquet or .jsonl file, whole or not at all.

    Raises UserError if it cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot write {path}: a data file ends in .parquet or .jsonl")
    beside: str | None = None
    try:
        beside = tempfile.mkdtemp(prefix=".tmp-", dir=path.parent)  # a name that nobody else has
        partial = Path(beside, path.name)
        (_write_parquet if path.suffix == ".parquet" else _write_jsonl)(partial, rows)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if beside:
            shutil.rmtree(beside, ignore_errors=True)


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"cannot write {path}: pyarrow {EXTRA}") from error
    try:
        table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    except pyarrow.ArrowException as error:
        why = str(error).splitlines()[0]
        raise UserError(f"the rows fit no parquet table ({why}): write a .jsonl file") from error
    pyarrow.parquet.write_table(table, path)


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(row)) + "\n" for row in rows)
