"""Ctrl-C and other signals to stop, heard where work may stop without losing any."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tinyzero.errors import Interrupted

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")
    if hasattr(signal, name)
]
"""Ctrl-C, and what terminals and clusters send before they take a process away."""


@contextmanager
def stop_requested(unit: str) -> Iterator[list[int]]:
    """A list of the signals received: once it is not empty, this `unit` of the work is to be the last.

    The second signal raises `Interrupted` at once; later ones change nothing, so that what was learned
    can be saved.
    """
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) == 2:
            raise Interrupted
        if len(received) > 2:
            return  # what was learned is being saved
        with suppress(OSError, ValueError):  # a terminal that went away
            said = f"\nstopping after this {unit} (once more to stop at once) ..."
            print(said, file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():  # only there can signals be heard
        yield received
        return
    previous = {s: signal.signal(s, handle) for s in SIGNALS}
    try:
        yield received
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
