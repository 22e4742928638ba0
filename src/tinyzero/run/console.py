"""The run on a terminal: a live table of the last steps, or one plain line per step elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

import rich.console
from rich.live import Live
from rich.table import Table

COLUMNS: dict[str, tuple[str, str]] = {
    "reward": ("reward", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "response_length": ("length", ".1f"),
}
"""Keys of a step's record that the console shows: its heading and how to write the number."""


SPENT: dict[str, tuple[str, str]] = {
    "flops": ("FLOP", "{:.1e}"),
    "time/gpu_hours": ("GPU-hours", "{:.2f}"),
    "time/dollars": ("cost", "${:.2f}"),
}
"""The same for what a run spends; each has a time/*_total, for its end. Shown where there is a GPU or a price."""


class Console:
    """The run as it goes: a live table of the last steps on a terminal, one plain line a step elsewhere.

    Use it as a context; `show` takes a step's record, `note` says something that stays.
    """

    ROWS = 10

    def __init__(
        self, steps: int, file: TextIO | None = None, highlights: Mapping[str, str] | None = None
    ) -> None:
        """`steps` is the run's length; `highlights` are more keys to show, each with its heading."""
        self.steps, self.lost = steps, False
        more = {key: (heading, ".2f") for key, heading in (highlights or {}).items()}
        self.columns = COLUMNS | more
        self.begin(0)
        self.rows: deque[dict[str, str]] = deque(maxlen=self.ROWS)
        self.console = rich.console.Console(file=file or sys.stdout, highlight=False, markup=False)
        redraws = self.console.is_terminal and not self.console.is_dumb_terminal
        # Drawn when there is something new, not by a thread that would take time from training.
        self.live = Live(console=self.console, auto_refresh=False) if redraws else None

    def __enter__(self) -> Console:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def begin(self, done: int) -> None:
        """Start the clock: `done` steps lie behind, of this run or the one it resumes."""
        self.done, self.started = done, time.monotonic()

    def show(self, record: Mapping[str, Any]) -> None:
        """Show the metrics of one step."""
        row = self._row(record)
        if self.live:
            self.rows.append(row)
            live = self.live
            self._written(lambda: live.update(self._table(), refresh=True))
        else:
            self.note("  ".join(f"{heading} {text}" for heading, text in row.items()))

    def note(self, text: str) -> None:
        """Print a line that stays, above the table."""
        self._written(lambda: self.console.print(text, soft_wrap=True))

    def _written(self, write: Callable[[], None]) -> None:
        """Write, or say once on stderr that the output is gone: training is worth more than its console."""
        if self.lost:
            return
        try:
            write()
        except (OSError, ValueError) as error:
            self.lost = True
            with suppress(OSError, ValueError):
                print(f"nothing more is shown ({error}); the run continues", file=sys.stderr)

    def _row(self, record: Mapping[str, Any]) -> dict[str, str]:
        finished = record["step"] + 1
        row = {"step": f"{finished}/{self.steps}"}
        for key, (heading, form) in self.columns.items():
            if record.get(key) is not None:
                row[heading] = format(record[key], form)
        if record.get("time/step"):
            row["tokens/s"] = f"{record['tokens/generated'] / record['time/step']:,.0f}"
        if record.get("time/utilisation"):
            row["of peak"] = f"{record['time/utilisation']:.0%}"
        if "time/gpu_hours" in record or "time/dollars" in record:
            for key, (heading, form) in SPENT.items():
                if key in record:
                    row[heading] = f"{form} of {form}".format(
                        record[key], record[f"time/{key.removeprefix('time/')}_total"]
                    )
        row["left"] = _clock(self.left(finished))
        return row

    def left(self, finished: int) -> float:
        """Seconds to the end after so many steps, at the pace since `begin`."""
        pace = (time.monotonic() - self.started) / max(finished - self.done, 1)
        return pace * (self.steps - finished)

    def _table(self) -> Table:
        headings = dict.fromkeys(heading for row in self.rows for heading in row)
        table = Table(*headings, box=None, padding=(0, 2, 0, 0))
        for row in self.rows:
            table.add_row(*(row.get(heading, "") for heading in headings))
        return table


def _clock(seconds: float) -> str:
    """Hours (if any), minutes and seconds: `1:02:05`, `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
