"""Where the seconds of a step go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Laps of one step, as `time/NAME`, and `time/step` for the whole of it.

    Example: after `clock.start()`, `with clock("sample"): ...` adds to `time/sample`.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new step begins."""
        self.begun = time.perf_counter()
        self._laps: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Seconds spent inside count as `time/name`."""
        before = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - before
            self._laps[f"time/{name}"] = self._laps.get(f"time/{name}", 0.0) + spent

    def laps(self) -> dict[str, float]:
        """What the step took so far."""
        return {**self._laps, "time/step": time.perf_counter() - self.begun}
