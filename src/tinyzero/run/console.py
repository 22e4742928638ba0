"""What a run shows: a live table on a terminal, or else one plain line per step."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import rich.console
from rich.live import Live
from rich.table import Table
from rich.text import Text

COLUMNS: dict[str, tuple[str, str]] = {
    "reward": ("reward", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "response_length": ("length", ".0f"),
}
"""Keys of a step's record that the console shows, each with its heading and number format."""

COSTS: dict[str, tuple[str, str]] = {
    "flops": ("FLOP", "{:.1e}"),
    "time/gpu_hours": ("GPU-hours", "{:.2f}"),
    "time/dollars": ("cost", "${:.2f}"),
}
"""The same for what a run costs, shown if it has a GPU or a price.

Each of these keys has a partner time/NAME_total, the estimate for the end of the run.
"""

REMOVED_FIRST = ("tokens/s", "FLOP")
REMOVED_LAST = ("of peak", "length", "reward")
"""Headings to leave out, in this order, if a line is too long; a task's own go in between."""

LINE_WIDTH = 80
COLUMN_GAP = 2
SECONDS_BETWEEN_REDRAWS = 0.25
SECONDS_BETWEEN_LINES = 60.0


class Screen(rich.console.Console):
    """rich's console, which would end the process if nobody reads its output any more."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError again, so that our own console can go on in silence."""
        raise


class Console:
    """The progress of a run: a live table of its last steps, or one plain line per step.

    Use it as a context. `show` takes a step's record, `evaluating` the progress of an evaluation,
    and `note` prints a line that stays.
    """

    ROWS = 10

    def __init__(
        self, steps: int, file: TextIO | None = None, highlights: Mapping[str, str] | None = None
    ) -> None:
        """`steps` is the run's length; `highlights` maps more keys to show to their headings."""
        self.steps = steps
        self.lost_output = False
        more = {key: (heading, ".1f") for key, heading in (highlights or {}).items()}
        self.columns = COLUMNS | more
        own_headings = [heading for heading, _ in more.values()]
        self.removable = [*REMOVED_FIRST, *own_headings, *REMOVED_LAST]
        self.removed: set[str] = set()

        self.rows: deque[dict[str, str]] = deque(maxlen=self.ROWS)
        self.evaluation = ""
        self.evaluation_started = self.last_progress = 0.0

        self.console = Screen(file=file or sys.stdout, highlight=False, markup=False)
        redraws = self.console.is_terminal and not self.console.is_dumb_terminal
        # Drawn only when there is something new: a drawing thread would take time from training.
        self.live = Live(console=self.console, auto_refresh=False) if redraws else None

    def __enter__(self) -> Console:
        if self.live:
            self._write(self.live.start)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            with suppress(OSError, ValueError):  # the terminal may be gone
                self.live.stop()

    def show(self, record: Mapping[str, Any], seconds_left: float) -> None:
        """Show the record of one step, and how long the run will still take."""
        row = self._row(record) | {"left": clock_text(seconds_left)}
        self._fit(row)

        if self.live:
            self.rows.append(row)
            self._redraw()
        else:
            self.note(_line(self._kept(row)))

    def evaluating(self, title: str, done: int, total: int, expected_seconds: float = 0.0) -> None:
        """Show that `done` of `total` problems of the evaluation called `title` are answered.

        Call it with `done` 0 first. A terminal is redrawn up to four times per second. Elsewhere
        there is a line at the start, and one per minute. `expected_seconds` is the expected
        duration of the whole evaluation. If it is 0, or over, the pace so far gives the time left.
        """
        now = time.monotonic()
        if done == 0:
            self.evaluation_started = now
        elif now - self.last_progress < self._seconds_between_updates() and done < total:
            return
        self.last_progress = now

        elapsed = now - self.evaluation_started
        expected = expected_seconds
        if elapsed > expected and done:
            expected = elapsed * total / done
        left = f", left {clock_text(expected - elapsed)}" if expected else ""

        if self.live:
            text = f"evaluating {title}: {done:,} of {total:,} problems{left}"
            self.evaluation = text if done < total else ""
            self._redraw()
        elif done == 0:
            self.note(f"evaluating {title}: {total:,} problems{left} ...")
        elif done < total:
            self.note(f"evaluating {title}: {done:,} of {total:,} problems{left}")

    def note(self, text: str) -> None:
        """Print a line that stays, above the table."""
        self._write(lambda: self.console.print(text, soft_wrap=True))

    def _redraw(self) -> None:
        live = self.live
        assert live is not None
        parts: list[rich.console.RenderableType] = []
        if self.rows:
            parts.append(self._table())
        if self.evaluation:
            parts.append(Text(self.evaluation))
        self._write(lambda: live.update(rich.console.Group(*parts), refresh=True))

    def _seconds_between_updates(self) -> float:
        return SECONDS_BETWEEN_REDRAWS if self.live else SECONDS_BETWEEN_LINES

    def _write(self, write: Callable[[], None]) -> None:
        """Write. If the output is gone, say so once on stderr. Training continues without it."""
        if self.lost_output:
            return
        try:
            write()
        except (OSError, ValueError) as error:
            self.lost_output = True
            silence(self.console.file)
            say(f"cannot show any more output ({error}); the run continues", sys.stderr)

    def _row(self, record: Mapping[str, Any]) -> dict[str, str]:
        """The cells of a step by heading."""
        row = {"step": f"{record['step'] + 1}/{self.steps}"}

        for key, (heading, number_format) in self.columns.items():
            if record.get(key) is not None:
                row[heading] = format(record[key], number_format)
        if record.get("time/sample"):  # the pace of sampling alone
            row["tokens/s"] = f"{record['tokens/generated'] / record['time/sample']:,.0f}"

        if record.get("time/utilisation"):
            row["of peak"] = f"{record['time/utilisation']:.0%}"
        if "time/gpu_hours" in record or "time/dollars" in record:
            for key, (heading, number_format) in COSTS.items():
                if key in record:
                    total = record[f"time/{key.removeprefix('time/')}_total"]
                    cell = f"{number_format} of {number_format}"
                    row[heading] = cell.format(record[key], total)
        return row

    def _fit(self, row: Mapping[str, str]) -> None:
        """Remove headings until `row` fits; they stay removed, so that all rows have the same."""
        for heading in self.removable:
            kept = self._kept(row)
            fits = _table_width(kept) <= self.console.width if self.live else _line_fits(kept)
            if fits:
                return
            if heading in row:
                self.removed.add(heading)

    def _kept(self, row: Mapping[str, str]) -> dict[str, str]:
        return {heading: cell for heading, cell in row.items() if heading not in self.removed}

    def _table(self) -> Table:
        rows = [self._kept(row) for row in self.rows]
        headings = dict.fromkeys(heading for row in rows for heading in row)

        table = Table(*headings, box=None, padding=(0, COLUMN_GAP, 0, 0))
        for row in rows:
            table.add_row(*(row.get(heading, "") for heading in headings))
        return table


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line to stdout, or to `stream`. If nobody can read it any more, say nothing."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):  # a closed pipe, a terminal that is gone, a closed file
        silence(stream)


def silence(stream: Any) -> None:
    """Let a stream that can no longer be written to swallow what is written to it from now on.

    Otherwise every later print, and Python itself at its exit, would fail on what is left in it.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is stream and stream.closed:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def clock_text(seconds: float) -> str:
    """Hours (if any), minutes and seconds, such as `1:02:05` or `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _line(row: Mapping[str, str]) -> str:
    return "  ".join(f"{heading} {cell}" for heading, cell in row.items())


def _line_fits(row: Mapping[str, str]) -> bool:
    return len(_line(row)) <= LINE_WIDTH


def _table_width(row: Mapping[str, str]) -> int:
    return sum(max(len(heading), len(cell)) + COLUMN_GAP for heading, cell in row.items())
