"""The other end of `serving.py`: starts the process that holds the package, and asks it."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from tinyzero.errors import UserError
from tinyzero.grading import worker

STARTING = 120.0  # seconds; the first import of a thousand modules can take long
DRAWING = 300.0  # seconds for one problem: ten may have to be drawn for one, at seconds each
SCORING = 60.0  # seconds for one answer, after which it is wrong
PARTING = 2.0  # seconds until a process that does not end is killed
PROGRAM = (
    "import json, sys; sys.path[:], descriptor = json.loads(sys.argv[1]); "
    "from tinyzero.tasks.reasoning_gym.serving import main; main(descriptor)"
)


class Room:
    """The process that makes and grades problems. It is started when it is first asked.

    A fork of this process starts its own, so that two processes never read the same answers.

    Example: `room().draw(("gcd", None, "{}"), data_seed=0, split="train", index=0)`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        atexit.register(self.close)

    def open(self) -> None:
        """Start the process now, if it is not running. Raises UserError if it cannot be started."""
        with self._lock:
            if not self._is_open():
                self._start()

    def draw(
        self, source: tuple[str, int | None, str], data_seed: int, split: str, index: int
    ) -> dict[str, Any]:
        """A problem as a dict: question, answer, what is given, seed and key.

        `source` is the dataset, its level, and its configuration as JSON. Raises UserError if the
        dataset cannot make a problem.
        """
        request = {"source": source, "data_seed": data_seed, "split": split, "index": index}
        try:
            reply: dict[str, Any] = self._ask(request, DRAWING)
        except TimeoutError:
            raise UserError(
                f"dataset {source[0]} took over {DRAWING:g} s to make one problem: "
                "lower task.level, or leave the dataset out"
            ) from None
        if "error" in reply:
            raise UserError(str(reply["error"]))
        return reply

    def score(self, source: tuple[str, int | None, str], seed: int, answer: str) -> float:
        """The score of the package for `answer`, from 0 to 1.

        Raises TimeoutError if it takes too long, and UserError if the problem cannot be made.
        """
        reply = self._ask({"source": source, "seed": seed, "answer": answer}, SCORING)
        if "error" in reply:
            raise UserError(str(reply["error"]))
        return float(reply["score"])

    def close(self) -> None:
        """Stop the process, if this process started one."""
        connection, process = self._connection, self._process
        self._connection = self._process = None
        if connection is not None:
            connection.close()
        if process is not None and self._owner == os.getpid():
            try:
                process.wait(PARTING)  # it ends by itself, and removes its folder
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _ask(self, request: Mapping[str, Any], seconds: float) -> Any:
        """The reply to a request. A process that died is started again once."""
        message = json.dumps(request).encode()
        with self._lock:
            for is_last in (False, True):
                try:
                    return self._answer(message, seconds)
                except TimeoutError:
                    self.close()
                    raise
                except (OSError, EOFError, ValueError) as error:
                    self.close()
                    if is_last:
                        raise UserError(
                            "the process of reasoning-gym died: see whether the memory is full"
                        ) from error

    def _answer(self, message: bytes, seconds: float) -> Any:
        if not self._is_open():
            self._start()
        assert self._connection is not None
        self._connection.settimeout(seconds)
        worker.send(self._connection, message)
        return worker.receive(self._connection, deadline=time.monotonic() + seconds)

    def _is_open(self) -> bool:
        """Whether there is a connection that belongs to this process, and not to its parent."""
        return self._connection is not None and self._owner == os.getpid()

    def _start(self) -> None:
        """Start the process, and wait until it is ready. Raises UserError without the package."""
        if find_spec("reasoning_gym") is None:
            raise UserError(
                "the task reasoning-gym needs a package: pip install 'tinyzero[reasoning]'"
            )
        self.close()  # in a fork, the connection belongs to the parent
        ours, theirs = socket.socketpair()
        import_path = [folder for folder in sys.path if isinstance(folder, str)]

        with theirs:
            self._process = subprocess.Popen(
                # -P: a file in the current folder must not be imported instead of a module
                [sys.executable, "-P", "-c", PROGRAM, json.dumps([import_path, theirs.fileno()])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"},
            )
        self._connection, self._owner = ours, os.getpid()
        worker.receive(ours, deadline=time.monotonic() + STARTING)


@cache
def room() -> Room:
    """The room of this process."""
    return Room()
