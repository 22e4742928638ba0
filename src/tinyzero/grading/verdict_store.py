"""Verdicts that were paid for, kept in an SQLite file so that no answer is judged twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tinyzero.errors import UserError

TABLE = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, score REAL NOT NULL)"


class VerdictStore:
    """Scores by what they were given for, in the file `path`; an empty path keeps them in memory.

    The file holds hashes and numbers, never a text. Threads and runs may share it.

    Raises UserError if the file cannot be used.

    >>> store = VerdictStore("")
    >>> store.put(["judge", "rubric", "question", "answer"], 0.5)
    >>> store.get(["judge", "rubric", "question", "answer"])
    0.5
    """

    def __init__(self, path: str) -> None:
        self.hits = 0
        self._lock = threading.Lock()
        try:
            if path:
                Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=30, check_same_thread=False, isolation_level=None
            )
            self._connection.execute(TABLE)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
        except (sqlite3.Error, OSError) as error:
            raise UserError(
                f"task.cache is {path!r}, which cannot be used ({error}): name another file"
            ) from None

    def get(self, parts: Sequence[str]) -> float | None:
        """The score kept for these parts, or None."""
        query = "SELECT score FROM verdicts WHERE key = ?"
        row = None
        with self._lock, suppress(sqlite3.Error):  # the answer is then judged again
            row = self._connection.execute(query, (_key(parts),)).fetchone()
            self.hits += row is not None
        return None if row is None else float(row[0])

    def put(self, parts: Sequence[str], score: float) -> None:
        """Keep a score for these parts."""
        with self._lock, suppress(sqlite3.Error):  # the answer may be judged again, at most
            self._connection.execute(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (_key(parts), score)
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _key(parts: Sequence[str]) -> str:
    """One hash of the parts; as a JSON list, so that no two lists of parts look the same."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
