"""Countdown problems on disk, in the public layout: the columns `target` and `nums`.

Files are parquet or JSONL. Rows are numbered from 0 everywhere, in messages too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tinyzero.errors import UserError, shown
from tinyzero.grading import MAX_DIGITS
from tinyzero.tasks.files import EXTRA, SUFFIXES, read_json, write_table
from tinyzero.tasks.tables import HUB_ID, parquet_rows, require_columns

TINYZERO_TRAIN, TINYZERO_TEST = 327_680, 1_024
MIN_COUNT, MAX_COUNT = 2, 6
A_NUMBER = f"a positive integer of at most {MAX_DIGITS} digits"

T = TypeVar("T")


class Row(NamedTuple):
    """One problem of a data file.

    Example: `Row(24, (3, 5, 12))` is the JSONL line `{"target": 24, "nums": [3, 5, 12]}`.
    """

    target: int
    nums: tuple[int, ...]


def read_rows(source: str | Path) -> list[Row]:
    """All rows of a .parquet or .jsonl file, or of the split "train" of a hub dataset `org/name`.

    Raises UserError if the source cannot be read, lacks a column, is empty, or has a malformed row,
    whose number is given.

    Example: `read_rows("Jiayi-Pan/Countdown-Tasks-3to4")`.
    """
    path = Path(source)
    looks_like_hub_id = HUB_ID.fullmatch(str(source)) and path.suffix not in SUFFIXES
    if looks_like_hub_id and not path.exists():
        raw = _read_hub(str(source))
    elif not path.is_file():
        raise UserError(
            f"no data file {path}: give a .parquet or .jsonl file, or a hub id org/name"
        )
    elif path.suffix == ".parquet":
        raw = _read_parquet(path)
    elif path.suffix == ".jsonl":
        raw = _read_jsonl(path)
    else:
        raise UserError(f"cannot read {path}: a data file ends in .parquet or .jsonl")

    rows = [_checked(target, nums, number, source) for number, (target, nums) in enumerate(raw)]
    if not rows:
        raise UserError(f"{source} has no rows")
    return rows


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write `rows` to a .parquet or .jsonl file, completely or not at all.

    Raises UserError if the file cannot be written.
    """
    write_table(path, ({"target": row.target, "nums": list(row.nums)} for row in rows))


def tinyzero_split(rows: Sequence[T]) -> tuple[list[T], list[T]]:
    """The original TinyZero's split: 327,680 rows for training, then 1,024 for the test.

    Raises UserError if there are fewer rows.
    """
    if len(rows) < TINYZERO_TRAIN + TINYZERO_TEST:
        raise UserError(
            f"the split 'tinyzero' needs {TINYZERO_TRAIN + TINYZERO_TEST:,} rows, but there are "
            f"only {len(rows):,}: use task.data_split keys"
        )
    return list(rows[:TINYZERO_TRAIN]), list(rows[TINYZERO_TRAIN : TINYZERO_TRAIN + TINYZERO_TEST])


def stats(rows: Sequence[Row]) -> dict[str, Any]:
    """What a user should know about a dataset of at least one row, ready for JSON.

    - `rows`: how many rows there are, and `by_count`: how many have 3 numbers, 4 numbers, ...
    - `numbers` and `targets`: the lowest and the highest.
    - `permutation_duplicates`: rows that repeat an earlier row, perhaps with reordered numbers.
    - `plus_minus`: the share of rows that + and - alone solve, and `plus_minus_by_count`.
    - `tinyzero_split`: None if there are too few rows for the original's split. Otherwise the rows
      in its `test`, how many of these + and - alone solve (`plus_minus`), and how many are also
      training rows, perhaps with reordered numbers (`leaks`).
    """
    solved = _plus_minus(rows)
    counts = np.array([len(row.nums) for row in rows])
    rows_by_count = {str(count): counts == count for count in sorted(set(counts.tolist()))}
    numbers = [number for row in rows for number in row.nums]
    targets = [row.target for row in rows]
    return {
        "rows": len(rows),
        "by_count": {count: int(chosen.sum()) for count, chosen in rows_by_count.items()},
        "numbers": [min(numbers), max(numbers)],
        "targets": [min(targets), max(targets)],
        "permutation_duplicates": len(rows) - len(set(map(_unordered, rows))),
        "plus_minus": float(solved.mean()),
        "plus_minus_by_count": {
            count: float(solved[chosen].mean()) for count, chosen in rows_by_count.items()
        },
        "tinyzero_split": _tinyzero_stats(rows, solved),
    }


def _tinyzero_stats(rows: Sequence[Row], solved: np.ndarray) -> dict[str, int] | None:
    """The statistics of the original TinyZero's split, or None if there are too few rows for it."""
    if len(rows) < TINYZERO_TRAIN + TINYZERO_TEST:
        return None

    train, test = tinyzero_split(rows)
    _, test_solved = tinyzero_split(solved.tolist())
    train_rows = set(map(_unordered, train))
    return {
        "test": len(test),
        "plus_minus": sum(test_solved),
        "leaks": sum(_unordered(row) in train_rows for row in test),
    }


def _unordered(row: Row) -> Row:
    """The row with its numbers sorted, so that reordered rows are equal."""
    return Row(row.target, tuple(sorted(row.nums)))


def _plus_minus(rows: Sequence[Row]) -> np.ndarray:
    """Whether + and - alone solve each row, as bool of shape (rows,).

    Every choice of signs is tried on all rows with the same count of numbers at once.
    """
    solved = np.zeros(len(rows), dtype=bool)
    for count in Counter(len(row.nums) for row in rows):
        indices = [index for index, row in enumerate(rows) if len(row.nums) == count]
        # Python's own integers if a sum of 64-bit ones could overflow
        largest = max(max(*rows[index].nums, rows[index].target) for index in indices)
        kind = np.int64 if largest * count < 2**63 else object
        numbers = np.array([rows[index].nums for index in indices], dtype=kind)
        targets = np.array([rows[index].target for index in indices], dtype=kind)

        signs = np.array(list(product((1, -1), repeat=count)))
        solved[indices] = (numbers @ signs.T == targets[:, None]).any(axis=1)
    return solved


def _checked(target: Any, nums: Any, number: int, source: str | Path) -> Row:
    """The row with this number. Raises UserError if its values are wrong."""
    if not _is_gradable(target):
        raise UserError(
            f"row {number} of {source} has target {shown(target)}: it must be {A_NUMBER}"
        )
    if not isinstance(nums, list) or not MIN_COUNT <= len(nums) <= MAX_COUNT:
        raise UserError(
            f"row {number} of {source} has nums {shown(nums)}: it must be a list of 2 to 6 integers"
        )
    for value in nums:
        if not _is_gradable(value):
            raise UserError(
                f"row {number} of {source} has {shown(value)} in nums: each must be {A_NUMBER}"
            )
    return Row(target, tuple(nums))


def _is_gradable(value: Any) -> bool:
    """Whether the grader can read this number in an answer."""
    return type(value) is int and 1 <= value < 10**MAX_DIGITS


def _read_parquet(path: Path) -> Iterator[tuple[Any, Any]]:
    for row in parquet_rows(path, ["target", "nums"]):
        yield row["target"], row["nums"]


def _read_jsonl(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").rstrip().split("\n")  # an empty end is no row
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error

    for number, line in enumerate(lines):
        try:
            row = read_json(line)
        except ValueError as error:
            raise UserError(f"row {number} of {path} is not JSON: {line[:60]!r}") from error
        if not isinstance(row, dict) or not {"target", "nums"} <= row.keys():
            raise UserError(
                f"row {number} of {path} must be an object with target and nums: {line[:60]!r}"
            )
        yield row["target"], row["nums"]


def _read_hub(name: str) -> Iterator[tuple[Any, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"cannot load {name} from the hub: datasets {EXTRA}") from error

    try:
        data = datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub client raises many kinds, and we can fix none of them
        raise UserError(f"cannot load {name} from the hub: {str(error).splitlines()[0]}") from error
    require_columns(name, ("target", "nums"), data.column_names)
    return zip(data["target"], data["nums"], strict=True)
