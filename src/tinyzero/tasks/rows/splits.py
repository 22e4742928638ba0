"""Which rows are in which split, in which order, and which of them occur twice."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tinyzero.errors import UserError, shown
from tinyzero.registry import suggest
from tinyzero.tasks.splits import split_by_key
from tinyzero.tasks.tables import SPLIT_NAMES
from tinyzero.types import SPLITS, Split

KEEPS_ITS_ROWS: tuple[Split, ...] = ("test", "dev", "train")
"""If a question is in several splits, it stays in the first of these."""


class Entry(NamedTuple):
    """A row as it is used: its id, its key, what it holds, its own split, its place in the file."""

    id: str
    key: str
    fields: Mapping[str, Any]
    split: Split | None
    location: str


def entry(fields: Mapping[str, Any], split: Split | None, location: str) -> Entry:
    """The entry of a row. Its key is a hash of the question, and its id one of all that it holds.

    Spaces and capitals of the question do not change the key.
    """
    asked = [fields["question"], *(message["content"] for message in fields.get("messages", ()))]
    key = _digest(" ".join(" ".join(asked).casefold().split()))
    return Entry(_digest(json.dumps(fields, sort_keys=True)), key, fields, split, location)


def own_split(value: Any, column: str, location: str) -> Split:
    """The split that a column names. Raises UserError if it names none."""
    split = SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise UserError(
            f"{location} has {shown(value)} in the column {column}"
            f"{suggest(str(value)[:40], SPLIT_NAMES)}"
        )
    return split


def divide(entries: Sequence[Entry]) -> tuple[dict[Split, list[Entry]], list[str]]:
    """The entries of each split, without duplicates, and what to tell the user about these.

    A row keeps its own split. If no row has the split dev, or test, it gets the rows without a
    split of their own, or of train, whose key chooses it. No question is in two splits: those of
    the test are removed from dev and train, and those of dev from train.
    """
    given = {one.split for one in entries}
    open_splits = [split for split in SPLITS if split not in given and split != "train"]

    by_split: dict[Split, list[Entry]] = {split: [] for split in SPLITS}
    for one in entries:
        hashed = split_by_key(one.key)
        is_free = one.split in (None, "train")
        if is_free:
            by_split[hashed if hashed in open_splits else "train"].append(one)
        else:
            assert one.split is not None
            by_split[one.split].append(one)

    notes = _notes_on_repeats(entries)
    taken: dict[str, Split] = {}
    leaks: Counter[tuple[Split, Split]] = Counter()
    for split in KEEPS_ITS_ROWS:
        kept: dict[str, Entry] = {}
        for one in by_split[split]:
            if one.key in taken:
                leaks[split, taken[one.key]] += 1
            else:
                kept.setdefault(one.id, one)
        by_split[split] = list(kept.values())
        taken |= {one.key: split for one in kept.values()}

    for (split, other), count in leaks.items():
        notes.append(
            f"{count} row{'s' * (count > 1)} of {split} had a question of {other}, and "
            f"{'were' if count > 1 else 'was'} left out of {split}"
        )
    return by_split, notes


def position(index: int, size: int, seed: int, split: Split) -> int:
    """The row at `index` of the stream of a split with `size` rows.

    Each epoch is a permutation of the rows, which (seed, split, epoch) determine.

    >>> sorted(position(index, 4, 0, "train") for index in range(4, 8))
    [0, 1, 2, 3]
    """
    epoch, step = divmod(index, size)
    return _permutation(size, f"rows:{seed}:{split}:{epoch}")[step]


@lru_cache(maxsize=6)
def _permutation(size: int, seed: str) -> list[int]:
    """The numbers below `size` in the order that `seed` determines."""
    order = list(range(size))
    random.Random(seed).shuffle(order)
    return order


def _notes_on_repeats(entries: Sequence[Entry]) -> list[str]:
    """What to say about rows that repeat others, or contradict them."""
    notes = []
    copies = len(entries) - len({one.id for one in entries})
    if copies:
        first = _repeats(entries)[0]
        notes.append(
            f"{copies} row{'s repeat earlier ones' if copies > 1 else ' repeats an earlier one'}, "
            f"and count{'s' * (copies == 1)} once: the first is {first.location}"
        )

    answers: dict[str, Entry] = {}
    contradictions = []
    for one in entries:
        before = answers.setdefault(one.key, one)
        if before.fields.get("answers") != one.fields.get("answers"):
            contradictions.append((before.location, one.location))
    if contradictions:
        before_place, location = contradictions[0]
        notes.append(
            f"{len(contradictions)} question{'s' * (len(contradictions) > 1)} with different "
            f"answers in different rows, such as {before_place} and {location}"
        )
    return notes


def _repeats(entries: Sequence[Entry]) -> list[Entry]:
    """The entries whose id occurred before."""
    seen: set[str] = set()
    repeats = []
    for one in entries:
        if one.id in seen:
            repeats.append(one)
        seen.add(one.id)
    return repeats


def _digest(text: str) -> str:
    """A short hash of a text, which may hold half characters."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
