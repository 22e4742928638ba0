"""The process that grades. It loads a task, then answers one request after another until it is told to end.

`workers.py` starts it. A message is its length in four bytes and then JSON, so a reply is data and
never code. What a grader prints is thrown away, and the memory that it may take is limited.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import math
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tinyzero.errors import UserError, brief
from tinyzero.grading.verdicts import Judge, Verdict, failed, judge_group
from tinyzero.registry import load_object
from tinyzero.types import Problem, Reward

LENGTH = struct.Struct("!I")
LONGEST_VERDICT = 65_536  # bytes of JSON; a reward with more named parts than fit is refused


def send(connection: socket.socket, message: bytes) -> None:
    """Send one message, which is JSON already."""
    connection.sendall(LENGTH.pack(len(message)) + message)


def receive(
    connection: socket.socket, longest: int = 2**32 - 1, deadline: float | None = None
) -> Any:
    """The next message. `deadline` is a time of time.monotonic().

    Raises EOFError if the other end is closed, ValueError if the message is longer than `longest`
    bytes or is not JSON, TimeoutError if it is not there at the deadline.
    """
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size, deadline))
    if length > longest:
        raise ValueError(f"a message of {length} bytes, more than {longest}")
    return json.loads(_exactly(connection, length, deadline))


def verdict_to_json(verdict: Verdict) -> Any:
    """A verdict as JSON can hold it; a reward that is too large to send is refused."""
    reward = verdict.reward
    if reward is None:
        return [None, verdict.error]
    plain = [[reward.value, dict(reward.parts), reward.right, reward.failure], verdict.error]
    if len(json.dumps(plain)) > LONGEST_VERDICT:
        return verdict_to_json(failed("raised", f"the reward has {len(reward.parts)} parts"))
    return plain


def verdict_from_json(plain: Any) -> Verdict:
    """The inverse of `verdict_to_json`. Raises ValueError on anything else."""
    try:
        reward, error = plain
        if reward is None:
            return Verdict(None, str(error))
        value, parts, right, failure = reward
        if right not in (True, False, None) or failure not in ("raised", "timeout", None):
            raise ValueError("no verdict")
        numbers = {str(name): float(part) for name, part in parts.items()}
        if not all(math.isfinite(number) for number in (value, *numbers.values())):
            raise ValueError("not finite")
        return Verdict(Reward(float(value), numbers, right, failure), str(error))
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a verdict: {error}") from error


def serve(connection: socket.socket, judge: Judge, memory: float) -> NoReturn:
    """Grade until the connection closes. `memory` is what a grader may take on top of now, in GB.

    Problems are made anew from JSON for each answer, so that nothing a grader changes stays.
    """
    pid, folder = os.getpid(), os.open(".", os.O_RDONLY)
    mark = limit_memory(memory)
    send(connection, b'"ready"')
    while True:
        request = receive(connection)
        problems = [Problem(**problem) for problem in request["problems"]]
        verdicts = judge_group(judge, problems, request["texts"])
        if os.getpid() != pid:  # the grader forked and returned twice: only the first answers
            os._exit(1)
        os.fchdir(folder)
        full = memory_held()[1] > mark or any("MemoryError" in v.error for v in verdicts)
        reply = {"verdicts": [verdict_to_json(verdict) for verdict in verdicts], "full": full}
        send(connection, json.dumps(reply).encode())


def limit_memory(gigabytes: float) -> float:
    """Let this process take so much memory on top of what it holds; a crash leaves no core file.

    Returns the resident bytes at which it should be replaced between two answers, because half of
    that is taken: infinity if the system does not tell.
    """
    more, (held, resident) = gigabytes * 1e9, memory_held()
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if held:
            resource.setrlimit(resource.RLIMIT_AS, (held + int(more), held + int(more)))
    return resident + more / 2 if held else math.inf


def memory_held() -> tuple[int, int]:
    """Bytes of address space that this process holds and those resident; 0 if the system does not tell."""
    try:
        pages = [int(text) for text in Path("/proc/self/statm").read_text().split()[:2]]
    except (OSError, ValueError):
        return 0, 0
    return pages[0] * resource.getpagesize(), pages[1] * resource.getpagesize()


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the closed connection ends it."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def silence() -> None:
    """Input is empty from here on, and output goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    # in a fork of a notebook or of a test these write elsewhere
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    faulthandler.disable()


def main(descriptor: int, task: Mapping[str, Any], memory: float) -> NoReturn:
    """Load `task`, say so or say why not, and serve.

    `task` holds `loader`, a reference such as `tinyzero.tasks:load_task`, and its arguments `name`
    and `options`.
    """
    die_with_parent()
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    silence()
    try:
        judge = load_object(task["loader"])(task["name"], task["options"])
    except BaseException as error:
        said = str(error) if isinstance(error, UserError) else brief(error)
        send(connection, json.dumps({"error": said}).encode())
        os._exit(1)
    serve_and_exit(connection, judge, memory)


def serve_and_exit(connection: socket.socket, judge: Judge, memory: float) -> NoReturn:
    """`serve`, then leave without waiting for what a grader left running."""
    try:
        serve(connection, judge, memory)
    except BaseException:
        os._exit(1)


def _exactly(connection: socket.socket, length: int, deadline: float | None) -> bytes:
    """The next `length` bytes."""
    found = bytearray()
    while len(found) < length:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
        piece = connection.recv(min(length - len(found), 1 << 20))
        if not piece:
            raise EOFError("the connection is closed")
        found += piece
    return bytes(found)
