"""Checks every variant of a task, each in a process with a limit, and shows a table of the results.

A variant is a name and the options that make it, such as one of the datasets of reasoning-gym.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from tinyzero.tasks.base import Task
from tinyzero.tasks.check import Check, examine

ANSWERS = 256  # answers whose grading time is shown: one step of a small run
HEADINGS = ("own solution", "attacks", f"s per {ANSWERS} answers", "verdict")
WIDTHS = (12, 7, 17, 0)


class Row(NamedTuple):
    """The result for one variant.

    Example: `Row("gcd", Check(attacks=2410, problems=15))`.
    """

    name: str
    check: Check | None
    """The result, or None if the check took too long."""
    error: str = ""
    """Why there is no result."""

    @property
    def passed(self) -> bool:
        """Whether the check ended and found nothing."""
        return self.check is not None and not self.check.failures

    def cells(self) -> tuple[str, ...]:
        """The cells of the table below HEADINGS.

        >>> Row("gcd", Check(attacks=900, solved=6, drawn=6, reward_seconds=0.001)).cells()
        ('6 of 6', '900', '0.26', 'passed')
        """
        check = self.check
        if check is None:
            return "", "", "", f"not checked: {self.error}"

        solved = f"{check.solved} of {check.drawn}" if check.solved else "none known"
        seconds = f"{ANSWERS * check.reward_seconds:.2g}"
        return solved, f"{check.attacks:,}", seconds, self._verdict(check)

    def _verdict(self, check: Check) -> str:
        if check.failures:
            return f"{len(check.failures)} found: {_in_a_cell(check.failures[0])}"
        return "passed" if check.solved else "nothing found, but unproven"


def check_variants(
    variants: Mapping[str, Task], problems: int, seconds: float, allow: Iterable[str] = ()
) -> Iterator[Row]:
    """Check the variants one after another, each for at most `seconds`.

    `problems` are drawn from each split. The tasks must be such that another process can load them.

    Example: `check_variants({"to 25": load_task("countdown", {"max_number": 25})}, 2, 60)`.
    """
    context = multiprocessing.get_context("spawn")
    for name, task in variants.items():
        ours, theirs = context.Pipe()
        arguments = (theirs, task, problems, tuple(allow), seconds)
        process = context.Process(target=_examine, args=arguments, name=f"check {name}")
        process.start()
        theirs.close()
        try:
            yield _row(name, ours, seconds)
        finally:
            process.kill()
            process.join()
            ours.close()


def table_lines(name: str, rows: Iterable[Row], names: Sequence[str]) -> Iterator[str]:
    """The lines of a Markdown table, one by one as the rows come. `name` heads the first column."""
    first_width = max(map(len, (name, *names)))
    yield _line((name, *HEADINGS), first_width)
    yield "|" + "---|" * (1 + len(HEADINGS))
    for row in rows:
        yield _line((row.name, *row.cells()), first_width)


def _line(cells: Sequence[str], first_width: int) -> str:
    widths = (first_width, *WIDTHS)
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def _row(name: str, pipe: Connection, seconds: float) -> Row:
    """The row that the process of a variant sends."""
    if not pipe.poll(seconds):
        return Row(name, None, f"took over {seconds:g} s")
    try:
        result: Check | str = pipe.recv()
    except EOFError:
        return Row(name, None, "the process died")
    return Row(name, None, result) if isinstance(result, str) else Row(name, result)


def _examine(
    pipe: Connection, task: Task, problems: int, allow: Sequence[str], seconds: float
) -> None:
    """Send the result of a check, or what was raised, from a process of its own."""
    try:
        pipe.send(examine(task, problems, allow=allow, wait=seconds))
    except Exception as error:
        pipe.send(_in_a_cell(str(error)))


def _in_a_cell(text: str) -> str:
    """A text as the cell of a Markdown table."""
    short = text if len(text) <= 160 else f"{text[:160]} ..."
    return short.replace("|", "\\|").replace("\n", " ")
