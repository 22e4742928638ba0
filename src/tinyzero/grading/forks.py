"""A process that forks children on request, so that a new child costs milliseconds.

One side asks (`ForkServer`), the other side forks and kills (`fork_on_request`), because only a
parent can wait for the end of a process. The grading workers of a notebook and the programs in the
sandbox are started like this. This module uses the standard library alone, because it is also
loaded inside the sandbox.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

NUMBER = struct.Struct("!i")  # a process id, or how a process ended


class ForkServer:
    """The side that asks. `control` is the socket to the process that forks.

    `fork` and `kill` raise OSError or EOFError if that process has died, or if it does not answer
    within the timeout of the socket.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lock = threading.Lock()

    def fork(self) -> tuple[int, socket.socket]:
        """A new child: its process id, and the connection to it."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock, theirs:
                socket.send_fds(self._control, [b"new"], [theirs.fileno()])
                return self._read_number(), ours
        except BaseException:
            ours.close()
            raise

    def kill(self, pid: int) -> int:
        """Kill a child, unless it has ended. Returns its exit code, or minus a signal."""
        with self._lock:
            self._control.sendall(NUMBER.pack(pid))
            return self._read_number()

    def close(self) -> None:
        """Tell the process that forks to end."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()

    def _read_number(self) -> int:
        reply = self._control.recv(NUMBER.size)
        if len(reply) < NUMBER.size:
            raise EOFError("the process that forks has died")
        number: int = NUMBER.unpack(reply)[0]
        return number


def fork_on_request(
    control: socket.socket,
    run_child: Callable[[socket.socket], NoReturn],
    clean_up: Callable[[], None] = lambda: None,
) -> None:
    """The side that forks: answer a `ForkServer` until it closes.

    `run_child` is called in each child, which leads a process group of its own. `clean_up` is
    called after a child was killed.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, NUMBER.size, 1)
        if not message:
            return

        if not descriptors:
            control.sendall(NUMBER.pack(_kill(NUMBER.unpack(message)[0])))
            clean_up()
            continue

        with socket.socket(fileno=descriptors[0]) as connection:
            pid = os.fork()
            if pid == 0:
                control.close()
                os.setsid()
                run_child(connection)
        control.sendall(NUMBER.pack(pid))


def _kill(pid: int) -> int:
    """Kill a child and its process group, and wait for it. Returns how it ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may not lead its group yet
        os.kill(pid, signal.SIGKILL)

    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
