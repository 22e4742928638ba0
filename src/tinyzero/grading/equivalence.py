"""Whether two formulas are equal, by math-verify, in a process that can be killed.

math-verify may never return for a short text, and its own time limit returns False silently and
switches off other alarms. So each comparison runs in a fork of a small process that has loaded it.
A fork that computes for too long is killed, and the loaded process is ready for the next one.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import resource
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from tinyzero.errors import Ungraded, UserError
from tinyzero.grading.worker import die_with_parent
from tinyzero.grading.workers import TaskReference, WorkerPool
from tinyzero.types import Problem

SECONDS = 2  # of computing that one comparison may take
PATIENCE = 10  # times as long by the clock, because the machine may be busy
MEMORY = 2.0  # GB that a comparison may take
MOST_REMEMBERED = 10_000  # comparisons that took too long, which are not tried again

_too_long: set[tuple[str, str]] = set()


def require_math_verify() -> None:
    """Raise UserError if math-verify is not installed. It is not loaded here."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError(
            "task.check is math, which needs math-verify for formulas: "
            "pip install 'tinyzero[maths]', or compare numbers with --task.check number"
        )


def equivalent(expected: str, answer: str) -> bool:
    """Whether math-verify finds two formulas equal.

    Raises TimeoutError if that takes more than SECONDS of computing. The same pair is not computed
    again. Raises Ungraded if the process that compares cannot be used.

    Example: `equivalent("(x+1)^2", "x^2+2x+1")`.
    """
    pair = (expected, answer)
    if pair in _too_long:
        raise TimeoutError(f"math-verify took longer than {SECONDS} s on this answer before")

    problem = Problem("", {"expected": expected}, "train", "")
    pool = _pool(os.getpid())
    pool.submit(pair, [problem], [answer])
    (verdict,) = pool.collect(pair)

    if verdict.reward is None:
        raise Ungraded(verdict.error)
    if verdict.reward.failure == "timeout":
        if len(_too_long) < MOST_REMEMBERED:
            _too_long.add(pair)
        raise TimeoutError(f"math-verify took longer than {SECONDS} s")
    return verdict.reward.right is True


def prepare() -> None:
    """Start the process that compares, and wait until it has loaded math-verify.

    It is done once for each process that asks. Raises UserError if it cannot be loaded.
    """
    _prepared(os.getpid())


@cache
def _prepared(process: int) -> bool:
    return equivalent("x+1", "1+x")


class MathVerify:
    """Compares formulas; made in the process that has loaded math-verify."""

    grades_groups = False

    def prepare(self) -> None:
        """Do nothing: math-verify is loaded already."""

    def reward(self, problem: Problem, text: str) -> bool:
        """Whether `text` equals the formula in the problem's field `expected`."""
        expected = str(problem.fields["expected"])
        return in_fork(lambda: _verified(expected, text), SECONDS)

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
        """The comparisons one after the other."""
        return [self.reward(problem, text) for problem, text in zip(problems, texts, strict=True)]


def load(name: str, options: Mapping[str, Any]) -> MathVerify:
    """Load math-verify, and everything that it loads on its first comparison."""
    for expected, answer in (("x+1", "1+x"), (r"\sqrt{4}", "2"), (r"\{1,2\}", "[1,2)")):
        _verified(expected, answer)
    return MathVerify()


def in_fork(function: Callable[[], bool], seconds: int) -> bool:
    """The result of `function`, computed in a fork of this process.

    Raises TimeoutError if it computes for more than `seconds`, or takes PATIENCE times as long by
    the clock. A fork that crashes, for example because it has no memory left, means False.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _compute(function, writer, seconds)

    os.close(writer)
    is_ready = bool(select.select([reader], [], [], seconds * PATIENCE)[0])
    result = os.read(reader, 1) if is_ready else b""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(reader)

    ran_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    if not is_ready or (ran_out and not result):
        raise TimeoutError(f"math-verify took longer than {seconds} s")
    return result == b"1"


def _compute(function: Callable[[], bool], writer: int, seconds: int) -> None:
    """In the fork: write the result and end. The system ends it if it computes for too long."""
    try:
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        os.write(writer, b"1" if function() else b"0")
    finally:
        os._exit(0)


def _verified(expected: str, answer: str) -> bool:
    """math-verify's own verdict, without its time limits."""
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it warns that its time limits are off
    readings = [
        parse(f"${_bare(text)}$", [LatexExtractionConfig()], parsing_timeout=None)
        for text in (expected, answer)
    ]
    return all(readings) and bool(verify(*readings, timeout_seconds=None))


def _bare(text: str) -> str:
    """A formula without the signs around it, but with its capitals."""
    return text.strip().strip("$").strip()


@cache
def _pool(process: int) -> WorkerPool:
    """The process that compares, started once for each process that asks."""
    reference = TaskReference(f"{__name__}:load", "math-verify", {})
    pool = WorkerPool(
        MathVerify(), reference, workers=1, timeout=2.0 * SECONDS * PATIENCE, memory=MEMORY
    )
    atexit.register(pool.close)
    return pool
