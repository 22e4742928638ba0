"""Ctrl-C and SIGTERM, heard where work may stop without losing any."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinyzero.errors import Interrupted


@contextmanager
def stop_requested(unit: str) -> Iterator[list[int]]:
    """A list that stays empty until the first Ctrl-C or SIGTERM, after which this `unit` of the work is to be the last;
    the second one raises `Interrupted` at once."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted
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
