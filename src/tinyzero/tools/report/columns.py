"""A stream of records as columns of numbers: 8 bytes per number, whatever the length of the run."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinyzero.run.signs import mean


class Columns(Mapping[str, Sequence[float]]):
    """One number per record under each key: NaN for a missing key, infinity for null.

    Null is what metrics.jsonl holds for a number that was not finite.

    >>> columns = Columns()
    >>> columns.add({"step": 0})
    >>> columns.add({"step": 1, "kl": 0.5})
    >>> list(columns["kl"])
    [nan, 0.5]
    """

    def __init__(self) -> None:
        self.length = 0
        self._columns: dict[str, array[float]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record. Values that are not numbers a float can hold are left out."""
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
    """A finite number as a float, or None for anything else: a record may hold anything."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer larger than any float
        return None


def highest_so_far(values: Sequence[float]) -> list[float]:
    """At each position the largest finite value up to there; NaN before the first."""
    highest, result = math.nan, []
    for value in values:
        if math.isfinite(value) and not highest >= value:
            highest = value
        result.append(highest)
    return result


def thin(values: Sequence[float], most: int) -> list[float | None]:
    """At most `most` means of neighbouring values; None where no value is finite."""
    width = max(1, math.ceil(len(values) / most))
    starts = range(0, len(values), width)
    return [mean(values[start : start + width]) for start in starts]
