"""How long the parts of a step take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures the parts of a step, as `time/NAME`, and the whole step, as `time/step`.

    Example:

        clock.start()
        with clock("sample"):
            ...                     # counts as time/sample
        clock.laps()                # {"time/sample": 1.2, "time/step": 1.3}
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a new step."""
        self.begun = time.perf_counter()
        self._laps: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside as `time/name`."""
        before = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - before
            self._laps[f"time/{name}"] = self._laps.get(f"time/{name}", 0.0) + spent

    def laps(self) -> dict[str, float]:
        """Seconds of the step so far, by key of the record."""
        return {**self._laps, "time/step": time.perf_counter() - self.begun}
