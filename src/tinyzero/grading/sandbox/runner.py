"""Running a program that nobody has read, and comparing what it returns with what is expected.

The program and the inputs are sent into the sandbox. The expected values stay here. What comes back
is read as it arrives, and only as many lines and bytes as were asked for.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from tinyzero.errors import Ungraded
from tinyzero.grading.forks import ForkServer
from tinyzero.grading.sandbox.tiers import Choice, Tier, Zygote, pick_tier, start
from tinyzero.grading.sandbox.zygote import FAILED

ProgramFailure = Literal["syntax", "missing", "raised", "timeout", "memory", "output", "crashed"]
"""Why a program has not returned all values: it cannot be parsed, does not define the function,
raised an error, took too long, took too much memory, returned too much, or ended its process."""

FAILURES: tuple[ProgramFailure, ...] = get_args(ProgramFailure)

TRIES = 2  # attempts if the sandbox itself dies
KILLING = 10.0  # seconds that the process inside may take to end a program

_chosen: Choice = "auto"


class Limits(NamedTuple):
    """What one program may use, over all of its calls."""

    seconds: float = 2.0
    """By the clock; its CPU time is limited too."""
    memory: int = 256
    """Megabytes, on top of what Python itself takes."""
    output: int = 1_000_000
    """Bytes of the text of all returned values."""


class Outcome(NamedTuple):
    """What a program returned.

    Example: `Outcome(("12", None), "raised", "ZeroDivisionError: division by zero")` is a program
    that returned 12 from its first call, and raised an error in its second.
    """

    values: tuple[str | None, ...]
    """For each call the canonical text of the value, or None if it is missing."""
    failure: ProgramFailure | None = None
    """Why the first of the missing values is missing; None if there are all values."""
    error: str = ""
    """The failure in words."""


def use_tier(choice: Choice) -> None:
    """Choose the tier of every `Sandbox()` that is made in this process from now on."""
    global _chosen
    _chosen = choice


class Sandbox:
    """Runs programs in a sandbox, one after another; each one starts with nothing of the others.

    The tier is that of the option `grading.sandbox`, unless one is given. Raises UserError if it
    does not work on this machine. A copy of this object in a forked process starts its own sandbox.

    Example:

        with closing(Sandbox()) as sandbox:
            outcome = sandbox.run("def f(x): return x + 1", "f", ["3", "41"])
            assert outcome.values == ("4", "42")
    """

    def __init__(self, tier: Choice | None = None, limits: Limits = Limits()) -> None:  # noqa: B008
        self.tier: Tier = pick_tier(tier or _chosen)
        self.limits = limits
        self._zygote: Zygote | None = None
        self._owner = 0
        self._release: Callable[[], object] = lambda: None

    def run(self, source: str, function: str, calls: Sequence[str]) -> Outcome:
        """Run a program, then call the function that it defines, once for each of `calls`.

        A call is the text of its arguments, which are literals, as in `"[1, 2], 'a'"`. Raises
        Ungraded if the sandbox itself dies, for a reason that this program did not cause alone.
        """
        request = {
            "source": source,
            "function": function,
            "calls": list(calls),
            "seconds": self.limits.seconds,
            "memory": self.limits.memory << 20,
        }
        message = json.dumps(request).encode()

        for _ in range(TRIES):
            try:
                return self._run(message, len(calls))
            except (OSError, EOFError) as error:
                reason = str(error) or type(error).__name__
                self.close()
        raise Ungraded(f"the sandbox ({self.tier}) died: {reason}")

    def close(self) -> None:
        """End the sandbox with everything in it. The next program starts a new one."""
        self._zygote = None
        self._release()

    def _run(self, message: bytes, calls: int) -> Outcome:
        server = self._server()
        pid, connection = server.fork()
        deadline = time.monotonic() + self.limits.seconds
        with connection:
            try:
                lines, failure = self._exchange(connection, message, calls, deadline)
            finally:
                ended_by = server.kill(pid)
        return _outcome(lines, failure, calls, ended_by, self.limits)

    def _server(self) -> ForkServer:
        """The process inside that forks, which is started if it is not running."""
        if self._zygote is None or self._owner != os.getpid():
            self.close()
            self._zygote = start(self.tier)
            self._owner = os.getpid()
            # also when this object is forgotten, or the process ends
            self._release = weakref.finalize(self, _stop, self._zygote, self._owner)
        self._zygote.control.settimeout(KILLING)
        return ForkServer(self._zygote.control)

    def _exchange(
        self, connection: socket.socket, message: bytes, calls: int, deadline: float
    ) -> tuple[list[bytes], ProgramFailure | None]:
        """Send the request, and read at most one line for each call."""
        lines: list[bytes] = []
        unfinished = bytearray()
        size = 0
        try:
            _set_deadline(connection, deadline)
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            while len(lines) < calls:
                _set_deadline(connection, deadline)
                piece = connection.recv(65_536)
                if not piece:
                    return lines, "crashed"
                size += len(piece)
                if size > self.limits.output:
                    return lines, "output"

                *complete, rest = piece.split(b"\n")
                if complete:
                    lines += [bytes(unfinished) + complete[0], *complete[1:]]
                    unfinished.clear()
                unfinished += rest
        except TimeoutError:
            return lines, "timeout"
        except (ConnectionError, BrokenPipeError):
            return lines, "crashed"
        return lines[:calls], None


def _stop(zygote: Zygote, owner: int) -> None:
    """End a sandbox, unless this is a fork of the process that it belongs to."""
    if owner == os.getpid():
        zygote.stop()
    else:
        zygote.control.close()


def _set_deadline(connection: socket.socket, deadline: float) -> None:
    """Let the next operation take until the deadline. Raises TimeoutError if it has passed."""
    seconds_left = deadline - time.monotonic()
    if seconds_left <= 0:
        raise TimeoutError
    connection.settimeout(seconds_left)


def _outcome(
    lines: list[bytes], failure: ProgramFailure | None, calls: int, ended_by: int, limits: Limits
) -> Outcome:
    """The outcome from the lines of a program, and from how it was ended."""
    texts = [line.decode("ascii", "replace") for line in lines]
    values = [None if text.startswith(FAILED) else text for text in texts]
    values += [None] * (calls - len(values))

    said = next((text for text in texts if text.startswith(FAILED)), "")
    if said:
        word, _, error = said.removeprefix(FAILED).partition(" ")
        kind: ProgramFailure = "raised"
        for known in FAILURES:
            kind = known if known == word else kind
        return Outcome(tuple(values), kind, error)

    if failure == "crashed" and ended_by == -9:  # the kernel ended it, for its CPU time or memory
        failure = "timeout"
    words = {
        "timeout": f"the program took longer than {limits.seconds:g} s",
        "output": f"the program returned more than {limits.output} bytes",
        "crashed": f"the program ended its process (exit code {ended_by})",
    }
    return Outcome(tuple(values), failure, words.get(failure or "", ""))
