"""The sandbox that a task is tried in: a worker process with limits on time and memory.

Nothing of the task runs in the process that checks it. A reward that hangs, exits, forks or takes
all memory therefore costs one answer only.
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
from tinyzero.tasks.check.findings import show
from tinyzero.tasks.check.hook import SideEffect, Watch
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import Problem, Reward

MAX_WAIT = 120.0  # seconds for everything but rewards: the first problem may have to read a file
PATIENCE = 5  # times the limit, by the clock, because the machine may be busy
MEMORY = 4 << 30  # bytes that a task may take in the worker, on top of what it starts with


class Answer(NamedTuple):
    """The result of one call: a value, or an error."""

    value: Any = None
    error: str = ""
    """What was raised, or how the worker ended, as in "raises ValueError: 'oops'"."""
    shown: str = ""
    """The value as text, which is there even if the value cannot travel between processes."""
    refused: bool = False
    """Whether the error is a UserError, which is how a task rejects its arguments."""
    unknown: bool = False
    """Whether the error is NoSolution."""
    seconds: float = 0.0
    """Seconds of computing, or by the clock if the call never returned."""
    elapsed: float = 0.0
    """Seconds by the clock, with the time that it waited for other processes."""
    died: bool = False
    """Whether the worker hung or ended, and had to be replaced."""
    effects: tuple[SideEffect, ...] = ()
    """The side effects of a reward."""

    def outcome(self) -> str:
        """What the call did, as the rest of a sentence: "raises ...", or "gives ..."."""
        return self.error or f"gives {self.shown}"


class Sandbox:
    """Calls a task in a worker process. A reward may take `seconds`, any other call `wait` seconds.

    Example:

        with Sandbox(task, seconds=1.0) as sandbox:
            answer = sandbox.grade(problem, "</think><answer>42</answer>")
    """

    def __init__(self, task: Any, seconds: float, wait: float = MAX_WAIT) -> None:
        self.task = task
        self.seconds = seconds
        self.wait = wait
        self._practice: list[tuple[Problem, str]] = []
        self._process: Any = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self._kill()

    def warm_up(self, practice: Iterable[tuple[Problem, str]]) -> None:
        """Grade these answers unwatched, now and in every later worker.

        Whatever a reward loads on its first call is then loaded.
        """
        self._practice = []
        for problem, text in practice:
            if not self._send_and_wait("practise", (problem, text), self.wait).died:
                self._practice.append((problem, text))

    def ask(self, method: str, *arguments: Any) -> Answer:
        """Call a method of the task that is not a reward; it may take `wait` seconds."""
        return self._send_and_wait(method, arguments, self.wait)

    def grade(self, problem: Problem, text: str) -> Answer:
        """The reward of `text` as a Reward in plain numbers, with the side effects of the call."""
        return self._send_and_wait("reward", (problem, text), self.seconds * PATIENCE)

    def _send_and_wait(self, method: str, arguments: tuple[Any, ...], limit: float) -> Answer:
        pipe = self._open()
        start = time.perf_counter()
        try:
            pipe.send((method, arguments))
            if pipe.poll(limit):
                answer: Answer = pipe.recv()
                return answer
            error = f"raises TimeoutError: 'took over {limit:g} s'"
        except (EOFError, OSError):
            error = "ended the process it runs in"

        self._kill()
        elapsed = time.perf_counter() - start
        return Answer(error=error, seconds=elapsed, elapsed=elapsed, died=True)

    def _open(self) -> Connection:
        """The pipe to the worker, which is started if it is not running."""
        if self._pipe is not None:
            return self._pipe

        # A forked worker has the task as it is here, even one that no other process could import.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
        self._pipe, workers_end = context.Pipe()
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(workers_end, self._pipe, self.task), name="check-task"
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # the worker leaves our threads alone
            self._process.start()
        workers_end.close()

        for practice in list(self._practice):
            if self._send_and_wait("practise", practice, self.wait).died:
                self._practice.remove(practice)
                return self._open()
        assert self._pipe is not None
        return self._pipe

    def _kill(self) -> None:
        """Kill the worker, if there is one."""
        if self._pipe is None:
            return
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)  # and everything it started
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._pipe = None


def _serve(pipe: Connection, parents_end: Connection, task: Any) -> None:
    """The worker: answer calls until the pipe closes, within limits, silently, and watched."""
    parents_end.close()
    _set_limits()
    owner = task.owner if isinstance(task, GuardedTask) and not task.plays_episodes else task
    name = task.name if isinstance(task, GuardedTask) else ""
    watch = Watch()
    process = os.getpid()

    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            return

        answer = _call(owner, name, method, arguments, watch)
        if os.getpid() != process:  # the reward forked and returned twice
            os._exit(1)

        try:
            pipe.send(answer)
        except (EOFError, OSError):
            return
        except BaseException:  # the value cannot be pickled
            pipe.send(answer._replace(value=None))


def _set_limits() -> None:
    """Limit the memory of this process, and discard what the task prints."""
    with suppress(OSError, AttributeError):
        os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)

    null_device = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null_device, descriptor)

    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _call(owner: Any, name: str, method: str, arguments: tuple[Any, ...], watch: Watch) -> Answer:
    """The answer to one call of the task called `name`."""
    start = time.process_time()
    clock_start = time.perf_counter()
    effects: list[SideEffect] = []
    try:
        if method in ("reward", "practise"):  # practice is watched too, so that it writes no file
            watch.begin("".join(arguments[1]))  # an episode's solution is a list of turns
        try:
            value = _value(owner, name, method, arguments)
        finally:
            seconds = time.process_time() - start
            elapsed = time.perf_counter() - clock_start
            effects = watch.end()
        if method == "reward":
            value = _as_reward(value)
        answer = Answer(value, shown=show(value))
    except NoSolution as error:
        answer = Answer(error=str(error), refused=True, unknown=True)
    except _NotAReward as error:
        answer = Answer(error=f"gives {error}")
    except BaseException as error:
        is_refusal = isinstance(error, UserError) and not isinstance(error, TaskError)
        answer = Answer(error=_raised(error), refused=is_refusal)
    return answer._replace(seconds=seconds, elapsed=elapsed, effects=tuple(effects))


def _value(owner: Any, name: str, method: str, arguments: tuple[Any, ...]) -> Any:
    """What the task's method, or its default, returns. Groups are graded as groups of one."""
    if method in ("reward", "practise"):
        problem, text = deepcopy(arguments[0]), arguments[1]
        if isinstance(owner, GuardedTask):
            return owner.reward(problem, text)
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


class _NotAReward(Exception):
    """A reward returned something else than a reward."""


def _as_reward(raw: Any) -> Reward:
    try:
        return sound(raw)
    except BaseException as error:
        raise _NotAReward(show(raw)) from error


def _raised(error: BaseException) -> str:
    """What was raised, in one line."""
    if isinstance(error, TaskError) and error.__cause__:
        error = error.__cause__
    try:
        return f"raises {type(error).__name__}: {show(str(error))}"
    except BaseException:
        return f"raises {type(error).__name__}"
