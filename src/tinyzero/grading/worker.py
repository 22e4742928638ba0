"""The process that grades: it loads a task, then answers one request after another until the end.

`workers.py` starts it. A message is its length in four bytes, followed by JSON, so a reply is data
and never code. What a grader prints is discarded, and the memory it may take is limited.
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
from tinyzero.grading.episodes import Heard, play_again
from tinyzero.grading.sandbox import Choice, use_tier
from tinyzero.grading.verdicts import Judge, Verdict, failed, judge_group
from tinyzero.registry import load_object
from tinyzero.types import Problem, Reward

LENGTH = struct.Struct("!I")
LONGEST_VERDICT = 65_536  # bytes of JSON; a reward with more named parts than fit is rejected


def send(connection: socket.socket, message: bytes) -> None:
    """Send one message, which is JSON already."""
    connection.sendall(LENGTH.pack(len(message)) + message)


def receive(
    connection: socket.socket, longest: int = 2**32 - 1, deadline: float | None = None
) -> Any:
    """The next message, decoded. `deadline` is a time of `time.monotonic()`, in seconds.

    Raises EOFError if the other end is closed, ValueError if the message is longer than `longest`
    bytes or is not JSON, and TimeoutError if it is not complete by the deadline.
    """
    (length,) = LENGTH.unpack(_receive_bytes(connection, LENGTH.size, deadline))
    if length > longest:
        raise ValueError(f"a message of {length} bytes, more than {longest}")
    return json.loads(_receive_bytes(connection, length, deadline))


def verdict_to_json(verdict: Verdict) -> Any:
    """The verdict as lists and dicts for JSON. A reward that is too large becomes a failure."""
    reward = verdict.reward
    if reward is None:
        return [None, verdict.error]

    numbers = [reward.value, dict(reward.parts), reward.right, reward.failure, reward.turns]
    plain = [numbers, verdict.error]
    if len(json.dumps(plain)) > LONGEST_VERDICT:
        return verdict_to_json(failed("raised", f"the reward has {len(reward.parts)} parts"))
    return plain


def verdict_from_json(plain: Any) -> Verdict:
    """The verdict that `verdict_to_json` turned into `plain`. Raises ValueError otherwise."""
    try:
        reward, error = plain
        if reward is None:
            return Verdict(None, str(error))

        value, parts, right, failure, shares = reward
        if right not in (True, False, None) or failure not in ("raised", "timeout", None):
            raise ValueError("not a verdict")
        numbers = {str(name): float(part) for name, part in parts.items()}
        turns = tuple(float(share) for share in shares)
        if not all(math.isfinite(number) for number in (value, *numbers.values(), *turns)):
            raise ValueError("not finite")
        return Verdict(Reward(float(value), numbers, right, failure, turns), str(error))
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a verdict: {error}") from error


def serve(connection: socket.socket, judge: Judge, memory: float) -> NoReturn:
    """Grade until the connection closes. `memory` is how much more a grader may take, in GB.

    Problems are decoded from JSON again for each request, so whatever a grader changes is lost.
    """
    process = os.getpid()
    folder = os.open(".", os.O_RDONLY)
    replace_above = limit_memory(memory)
    send(connection, b'"ready"')

    while True:
        request = receive(connection)
        problems = [Problem(**problem) for problem in request["problems"]]
        text: str | None = None
        if "said" in request:
            text, verdicts = _play(judge, problems[0], request)
        else:
            verdicts = judge_group(judge, problems, request["texts"])

        if os.getpid() != process:  # the grader forked and returned twice: only one may reply
            os._exit(1)
        os.fchdir(folder)

        ran_out = any("MemoryError" in verdict.error for verdict in verdicts)
        reply = {
            "text": text,
            "verdicts": [verdict_to_json(verdict) for verdict in verdicts],
            "full": memory_held()[1] > replace_above or ran_out,
        }
        send(connection, json.dumps(reply).encode())


def _play(
    task: Any, problem: Problem, request: Mapping[str, Any]
) -> tuple[str | None, list[Verdict]]:
    """What an episode answers to its last turn, and the verdict if it is over.

    The episode is played from its beginning, and closed.
    """
    said, replies = tuple(request["said"]), tuple(request["replies"])
    stage, reply = play_again(task, Heard(None, problem, said, replies, request["is_last"]))

    verdict = stage.close() or reply.verdict
    return reply.text, [] if verdict is None else [verdict]


def limit_memory(gigabytes: float) -> float:
    """Let this process take this much memory on top of what it holds; a crash leaves no core file.

    Returns the resident bytes above which the process should be replaced before its next answer:
    at that point half of the allowance is used. Infinity if the system does not report memory.
    """
    allowance = gigabytes * 1e9
    held, resident = memory_held()

    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if held:
            limit = held + int(allowance)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return resident + allowance / 2 if held else math.inf


def memory_held() -> tuple[int, int]:
    """The bytes of address space and the resident bytes of this process; (0, 0) if not reported."""
    try:
        fields = Path("/proc/self/statm").read_text().split()[:2]
        address_space, resident = (int(field) for field in fields)
    except (OSError, ValueError):
        return 0, 0
    page = resource.getpagesize()
    return address_space * page, resident * page


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere it ends on its own."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def silence() -> None:
    """Make the standard input empty, and discard all output from here on."""
    null_device = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null_device, descriptor)
    # In a fork of a notebook or of a test, these do not write to the descriptors above.
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    faulthandler.disable()


def main(
    descriptor: int, task: Mapping[str, Any], memory: float, sandbox: Choice = "auto"
) -> NoReturn:
    """Load `task`, report "ready" or the error, and serve.

    `descriptor` is the socket to the parent. `task` has the keys of a `TaskReference`: `loader`, a
    reference such as "tinyzero.tasks:load_task", and its arguments `name` and `options`. `sandbox`
    is the tier that it runs programs in, if it runs any.
    """
    die_with_parent()
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    silence()
    use_tier(sandbox)

    try:
        judge = load_object(task["loader"])(task["name"], task["options"])
        judge.prepare()
    except BaseException as error:
        message = str(error) if isinstance(error, UserError) else brief(error)
        send(connection, json.dumps({"error": message}).encode())
        os._exit(1)
    serve_and_exit(connection, judge, memory)


def serve_and_exit(connection: socket.socket, judge: Judge, memory: float) -> NoReturn:
    """`serve`, then exit without waiting for anything that a grader left running."""
    try:
        serve(connection, judge, memory)
    except BaseException:
        os._exit(1)


def _receive_bytes(connection: socket.socket, length: int, deadline: float | None) -> bytes:
    """The next `length` bytes. Raises EOFError or TimeoutError as `receive` does."""
    received = bytearray()
    while len(received) < length:
        if deadline is not None:
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                raise TimeoutError
            connection.settimeout(seconds_left)

        piece = connection.recv(min(length - len(received), 1 << 20))
        if not piece:
            raise EOFError("the connection is closed")
        received += piece
    return bytes(received)
