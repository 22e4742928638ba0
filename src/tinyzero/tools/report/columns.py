"""A stream of records as columns of numbers: 8 bytes a number, whatever the run's length."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Columns(Mapping[str, Sequence[float]]):
    """One number a record under each key: NaN where the record lacks the key, infinity where it holds null.

    (Null is what metrics.jsonl has for a number that was not finite.)
    """

    def __init__(self) -> None:
        self.length = 0
        self._columns: dict[str, array[float]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """One more record; what is no number, or too large for one, is left out."""
        for key, value in record.items():
            if value is None or number(value) is not None:
                column = self._columns.setdefault(key, array("d"))
                column.extend([math.nan] * (self.length - len(column)))
                column.append(math.inf if value is None else value)
        self.length += 1

    def __getitem__(self, key: str) -> Sequence[float]:
        column = self._columns[key]
        column.extend([math.nan] * (self.length - len(column)))
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def number(value: object) -> float | None:
    """A finite number as a float, None for anything else: records may be a stranger's."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float
        return None


def mean(values: Sequence[float]) -> float | None:
    """The mean of the numbers that are there and finite."""
    found = [value for value in values if math.isfinite(value)]
    return sum(found) / len(found) if found else None


def thin(values: Sequence[float], most: int) -> list[float | None]:
    """At most `most` numbers: each the mean of as many neighbours as it takes, None where there is none."""
    width = max(1, math.ceil(len(values) / most))
    return [mean(values[start : start + width]) for start in range(0, len(values), width)]
