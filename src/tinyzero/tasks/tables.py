"""Reading the rows of a data set: JSONL, JSON, CSV, parquet, compressed files, datasets of the hub.

Every mistake in a file is one line that names the file, the line or row, and the fix.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from tinyzero.errors import UserError, first_line, shown
from tinyzero.tasks.files import EXTRA, read_json
from tinyzero.types import Split

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # org/name
LARGEST_CELL = 2**31 - 1  # characters of one value of a CSV file

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "eval": "dev",
    "test": "test",
    "testing": "test",
}
"""The usual names of splits in data sets, in lower case."""


class Row(NamedTuple):
    """One row: the place to name in messages, its values by column, and the split it came from.

    Example: `Row("line 4 of mine.jsonl", {"question": "2+3?", "answer": 5})`.
    """

    location: str
    values: dict[str, Any]
    split: Split | None = None


def read_rows(source: str | Path, subset: str | None = None) -> list[Row]:
    """All rows of a file, of a folder with a saved dataset, or of a dataset `org/name` of the hub.

    `subset` is the name of a dataset's configuration, such as "main". Values are plain Python: what
    NumPy and Arrow add is converted. Only a dataset with several splits says the split of a row.

    Raises UserError if the source cannot be read, or has no rows.

    Example: `read_rows("mine.jsonl.gz")`.
    """
    path = Path(source)
    if path.is_file():
        if subset is not None:
            raise UserError(f"task.subset is for datasets of the hub, and {source} is a file")
        rows = list(_rows_of_file(path))
    elif path.is_dir() or (HUB_ID.fullmatch(str(source)) and not _is_data_file(path)):
        rows = list(_rows_of_dataset(str(source), subset))
    else:
        raise UserError(
            f"no data file {source}: give a file that ends in {', '.join(FORMATS)} (perhaps with "
            f"{', '.join(COMPRESSIONS)}), or a dataset of the hub as org/name"
        )

    if not rows:
        raise UserError(f"{source} has no rows: give a file with at least one")
    return rows


def parquet_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, with the given columns or with all of them.

    Raises UserError if it cannot be read as parquet, or lacks a column.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"cannot read {path}: pyarrow {EXTRA}") from error

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            require_columns(path, columns or [], file.schema_arrow.names)
            table = file.read(columns=columns)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot read {path} as parquet: {str(error).splitlines()[0]}") from error
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def require_columns(source: str | Path, wanted: Iterable[str], names: Iterable[str]) -> None:
    """Raise UserError if one of the `wanted` columns is not among the `names` of the columns."""
    present = list(names)
    for column in wanted:
        if column not in present:
            raise UserError(
                f"{source} has no column {column!r} (it has {', '.join(present)}): "
                "rename the right one"
            )


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NumPy's values, tuples, dates and decimals are converted.

    NaN becomes None, because data frames write it for a missing value. Raises ValueError if there
    is no such form, as for the bytes of a picture.

    >>> plain({"when": date(2026, 11, 27), "values": (1, float("nan"))})
    {'when': '2026-11-27', 'values': [1, None]}
    """
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy
        return plain(value.tolist())
    if isinstance(value, date | time | Decimal | UUID):
        return str(value)
    if isinstance(value, bytes):
        return _text_of_bytes(value)
    raise ValueError(f"{type(value).__name__} is not text, a number, a list or an object")


def _text_of_bytes(value: bytes) -> str:
    """The text that these bytes are. Raises ValueError if they are not text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("bytes that are not text") from None


def _is_data_file(path: Path) -> bool:
    """Whether the name of this path is that of a data file, so that it cannot be a hub dataset."""
    return any(suffix in (*FORMATS, *COMPRESSIONS) for suffix in path.suffixes)


def _rows_of_file(path: Path) -> Iterator[Row]:
    """The rows of one file, by the ending of its name."""
    endings = [suffix.lower() for suffix in path.suffixes]
    compression = endings.pop() if endings and endings[-1] in COMPRESSIONS else ""
    form = endings[-1] if endings else ""

    if form == ".parquet" and not compression:
        for number, values in enumerate(parquet_rows(path)):
            yield _row(f"row {number} of {path}", values)
        return
    if form not in FORMATS or form == ".parquet":
        raise UserError(
            f"cannot read {path}: a data file ends in {', '.join(FORMATS)}, and all but parquet "
            f"files may be compressed ({', '.join(COMPRESSIONS)})"
        )

    text = _decoded(_decompressed(path, compression), path)
    if form == ".csv":
        yield from _rows_of_csv(text, path)
    elif form == ".json" and text.lstrip().startswith("["):
        yield from _rows_of_json(text, path)
    else:
        yield from _rows_of_jsonl(text, path)


def _decompressed(path: Path, compression: str) -> bytes:
    """The bytes in a file. Raises UserError if they cannot be read or decompressed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error

    try:
        if compression == ".gz":
            return gzip.decompress(data)
        if compression == ".bz2":
            return _whole_bz2(data)
        if compression == ".xz":
            return lzma.decompress(data)
        return _unzstd(data, path) if compression else data
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            f"cannot decompress {path} ({first_line(error)}): it is damaged or cut off, so get it "
            "again"
        ) from error


def _whole_bz2(data: bytes) -> bytes:
    """The decompressed bytes. Raises EOFError if the data are cut off, even at a block's end."""
    if not data:
        raise EOFError("it is empty")
    return bz2.decompress(data)


def _unzstd(data: bytes, path: Path) -> bytes:
    """The bytes in a .zst file. Raises UserError without the library, ValueError if damaged."""
    try:
        import zstandard
    except ImportError as error:
        raise UserError(
            f"cannot read {path}: zstandard is not installed: pip install zstandard, or "
            "decompress the file"
        ) from error

    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        text = decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof:
        raise ValueError("the end is missing")
    return text


def _decoded(data: bytes, path: Path) -> str:
    """Bytes as text: UTF-8, or UTF-16 after its byte-order mark. Raises UserError otherwise."""
    is_utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"line {line} of {path} is not UTF-8 text: save the file as UTF-8 "
            "(for Western text: iconv -f latin1 -t utf-8)"
        ) from error


def _rows_of_jsonl(text: str, path: Path) -> Iterator[Row]:
    """One row per line that is not blank. Only a newline ends a line: JSON may hold other ends."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        location = f"line {number} of {path}"
        try:
            values = read_json(line)
        except ValueError as error:
            raise UserError(
                f"{location} is not JSON ({first_line(error)}): fix or remove it, or get the file "
                f"again if it is cut off there; it begins {shown(line)}"
            ) from error
        yield _row(location, values)


def _rows_of_json(text: str, path: Path) -> Iterator[Row]:
    """The objects of a JSON list."""
    try:
        objects = read_json(text)
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({first_line(error)}): fix it, or get it again if it is cut off"
        ) from error
    for number, values in enumerate(objects):
        yield _row(f"row {number} of {path}", values)


def _rows_of_csv(text: str, path: Path) -> Iterator[Row]:
    """One row per record after the header. All values are text; an empty one is missing."""
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for values in reader:
            location = f"line {reader.line_num} of {path}"
            if None in values or None in values.values():
                raise UserError(
                    f"{location} has another number of values than the header: quote values that "
                    "contain a comma"
                )
            yield Row(location, {name: value or None for name, value in values.items()})
    except csv.Error as error:
        raise UserError(f"line {reader.line_num} of {path} is not CSV ({error}): fix it") from error


def _rows_of_dataset(source: str, subset: str | None) -> Iterator[Row]:
    """The rows of a folder that `datasets` saved or can read, or of a dataset of the hub.

    If the dataset has several splits, their usual names say the split of each row; parts with other
    names are left out.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"cannot load {source}: datasets {EXTRA}") from error

    path = Path(source)
    is_saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if is_saved:
            loaded = datasets.load_from_disk(source)
        else:
            loaded = datasets.load_dataset(source, subset)
    except Exception as error:  # it raises many kinds, and the first line says what is wrong
        raise UserError(f"cannot load the dataset {source}: {first_line(error)}") from error

    if not isinstance(loaded, Mapping):
        parts: Mapping[str, Any] = {"train": loaded}
    else:
        parts = {name: part for name, part in loaded.items() if name.lower() in SPLIT_NAMES}
        if not parts:
            raise UserError(
                f"the dataset {source} has the splits {', '.join(loaded)}: rename one to train"
            )
    for name, part in parts.items():
        split = SPLIT_NAMES[name.lower()] if len(parts) > 1 else None
        for number, values in enumerate(part):
            yield _row(f"row {number} of {source}, split {name}", values)._replace(split=split)


def _row(location: str, values: Any) -> Row:
    """The row, with its values converted. Raises UserError if it is not an object.

    A column that has no form in JSON, such as a picture, is left out of it.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{location} must be an object with columns, not {shown(values)}")

    converted = {}
    for name, value in values.items():
        try:
            converted[str(name)] = plain(value)
        except (ValueError, RecursionError):
            continue
    return Row(location, converted)
