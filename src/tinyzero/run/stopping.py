"""Ctrl-C and other signals to stop, acted on only when no work is lost."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tinyzero.errors import Interrupted
from tinyzero.run.console import say

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")
    if hasattr(signal, name)
]
"""Ctrl-C, and what terminals and clusters send before they end a process."""


@contextmanager
def stop_requested(unit: str) -> Iterator[list[int]]:
    """A list of the signals received: once it holds one, stop after the current `unit` of work.

    The second signal raises `Interrupted` at once. Later ones do nothing, so that what was learned
    can be saved. Only the main thread can receive signals; in another one the list stays empty.
    """
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) == 2:
            raise Interrupted
        if len(received) > 2:
            return  # what was learned is being saved
        with suppress(RuntimeError):  # the signal came in the middle of another print
            message = f"stopping after this {unit} (press Ctrl-C again to stop at once) ..."
            say(f"\n{message}", sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    # a signal that is ignored stays so: `nohup` asks for that
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
