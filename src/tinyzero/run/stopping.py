"""Ctrl-C and SIGTERM, heard where work may stop without losing any."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requested(unit: str) -> Iterator[list[int]]:
    """A list that stays empty until the first Ctrl-C or SIGTERM, after which this `unit` of the work is to be the last;
    the second one ends the process at once."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        # not the handlers found before: a job started in the background finds the interrupt ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print(
            f"\nstopping after this {unit} (once more to stop at once) ...",
            file=sys.stderr,
            flush=True,
        )

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
