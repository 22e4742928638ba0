"""Where a task is tried: a worker process that can be killed, with limits on time and memory.

Nothing of the task runs in the process that checks it. So a reward that hangs, exits, forks or
takes all memory costs one answer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tinyzero.errors import TaskError, UserError
from tinyzero.grading import sound
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.tasks.check.hook import Act, Watch
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import Problem, Reward

MAX_WAIT = 120.0  # seconds for all but rewards: the first problem may have to read a file
PATIENCE = 5  # times the limit by the clock: the machine may be busy with something else
MEMORY = 4 << 30  # bytes that a task may take in the worker, on top of what it starts with


class Answer(NamedTuple):
    """What became of one call: its value, or the `error` if it has none."""

    value: Any = None
    error: str = ""
    """What was raised, or how the worker ended; empty if the call returned."""
    shown: str = ""
    """The value as text, also if it cannot travel between processes."""
    refused: bool = False
    """Whether the error is a UserError, which is how a task says no."""
    unknown: bool = False
    """Whether the error is NoSolution."""
    seconds: float = 0.0
    """Of computing; by the clock if it never returned."""
    died: bool = False
    """Whether the worker hung or ended, and had to be replaced."""
    acts: tuple[Act, ...] = ()

    def said(self) -> str:
        """What it did, as in "raises ValueError: 'oops'"."""
        return self.error or f"gives {self.shown}"


class Room:
    """Asks a task in a worker process. A reward may take `seconds`; use it as a context manager."""

    def __init__(self, task: Any, seconds: float, wait: float = MAX_WAIT) -> None:
        self.task, self.seconds, self.wait = task, seconds, wait
        self._practice: list[tuple[Problem, str]] = []
        self._process: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *error: object) -> None:
        self._kill()

    def warm_up(self, practice: Iterable[tuple[Problem, str]]) -> None:
        """Grade these answers unwatched, now and in every later worker: what loads on first use, loads."""
        self._practice = []
        for problem, text in practice:
            if not self._send_and_wait("practise", (problem, text), self.wait).died:
                self._practice.append((problem, text))

    def ask(self, method: str, *arguments: Any) -> Answer:
        """Call a method of the task; its time limit is long."""
        return self._send_and_wait(method, arguments, self.wait)

    def grade(self, problem: Problem, text: str) -> Answer:
        """The reward of `text`, as a Reward in plain numbers, with the acts seen meanwhile."""
        return self._send_and_wait("reward", (problem, text), self.seconds * PATIENCE)

    def _send_and_wait(self, method: str, arguments: tuple[Any, ...], limit: float) -> Answer:
        pipe = self._open()
        start = time.perf_counter()
        try:
            pipe.send((method, arguments))
            if pipe.poll(limit):
                answer: Answer = pipe.recv()
                return answer
            failure = f"raises TimeoutError: 'took over {limit:g} s'"
        except (EOFError, OSError):
            failure = "ended the process it runs in"
        self._kill()
        return Answer(error=failure, seconds=time.perf_counter() - start, died=True)

    def _open(self) -> Connection:
        if self._pipe is not None:
            return self._pipe
        # A forked worker has the task as it is here, also one that no other process could import.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, self._pipe, self.task), name="check-task"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads, which the worker leaves
            self._process.start()
        theirs.close()
        for practice in list(self._practice):
            if self._send_and_wait("practise", practice, self.wait).died:
                self._practice.remove(practice)
                return self._open()
        assert self._pipe is not None
        return self._pipe

    def _kill(self) -> None:
        if self._pipe is None:
            return
        pid = self._process.pid
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)  # and what it started
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._pipe = None


def _serve(pipe: Connection, parents_end: Connection, task: Any) -> None:
    """Answer calls until the pipe closes. The process is one of its own: limited, silent, watched."""
    parents_end.close()
    _limit()
    owner = task.owner if isinstance(task, GuardedTask) else task
    name = task.name if isinstance(task, GuardedTask) else ""
    watch, pid = Watch(), os.getpid()
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        answer = _call(owner, name, method, arguments, watch)
        if os.getpid() != pid:  # the reward forked and returned twice
            os._exit(1)
        try:
            pipe.send(answer)
        except (EOFError, OSError):
            return
        except BaseException:  # what cannot be pickled
            pipe.send(answer._replace(value=None))


def _limit() -> None:
    """Limits on this process, and silence: what a task prints is no part of the check."""
    with suppress(OSError, AttributeError):
        os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    with suppress(ImportError, OSError, ValueError):
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _call(owner: Any, name: str, method: str, arguments: tuple[Any, ...], watch: Watch) -> Answer:
    start = time.process_time()
    acts: list[Act] = []
    try:
        if method in ("reward", "practise"):  # no practice writes a file that an answer names
            watch.begin(arguments[1])
        try:
            value = _value(owner, name, method, arguments)
        finally:
            seconds = time.process_time() - start
            acts = watch.end()
        if method == "reward":
            value = _rewarded(value)
        answer = Answer(value, shown=show(value))
    except NoSolution as error:
        answer = Answer(error=str(error), refused=True, unknown=True)
    except _NoReward as error:
        answer = Answer(error=f"gives {error}")
    except BaseException as error:
        answer = Answer(error=_raised(error), refused=isinstance(error, UserError))
    return answer._replace(seconds=seconds, acts=tuple(acts))


def _value(owner: Any, name: str, method: str, arguments: tuple[Any, ...]) -> Any:
    """The task's own method, or the default; a reward by `rewards` if the task grades groups."""
    if method in ("reward", "practise"):
        problem, text = deepcopy(arguments[0]), arguments[1]
        if getattr(type(owner), "rewards", Task.rewards) is not Task.rewards:
            (value,) = owner.rewards([problem], [text])
            return value
        return owner.reward(problem, text)
    function = getattr(owner, method, None) or getattr(Task, method).__get__(owner)
    value = function(*deepcopy(arguments))
    if method == "nonsense":
        return list(value)
    if name and isinstance(value, Problem) and not value.task:
        return replace(value, task=name)
    return value


class _NoReward(Exception):
    """What a reward returned is none."""


def _rewarded(raw: Any) -> Reward:
    try:
        return sound(raw)
    except BaseException as error:
        raise _NoReward(show(raw)) from error


def _raised(error: BaseException) -> str:
    if isinstance(error, TaskError) and error.__cause__:
        error = error.__cause__
    try:
        return f"raises {type(error).__name__}: {show(str(error))}"
    except BaseException:
        return f"raises {type(error).__name__}"


def show(value: object) -> str:
    """A value as one short line."""
    try:
        text = repr(value)
    except BaseException:
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"
