"""Rewards in worker processes, so that no grader can hang, kill or slow down a run.

A worker that takes too long is killed with all that it started, and a new one goes on with the next
answer. What became of an answer depends neither on the number of workers nor on who was first.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, NoReturn

from tinyzero.errors import UserError
from tinyzero.grading import worker
from tinyzero.grading.verdicts import Judge, Verdict, failed
from tinyzero.types import Problem

LOADING = 120.0  # seconds that a worker may take to load its task
TRIES = 2  # at an answer whose worker dies
DIED = "the grader's process died"
PROGRAM = (
    "import json, sys; sys.path[:], *more = json.loads(sys.argv[1]); "
    "from tinyzero.grading.worker import main; main(*more)"
)
PID = struct.Struct("!i")


class TaskReference(NamedTuple):
    """A task that can be loaded in another process: `loader` is called with `name` and `options`.

    Example: `TaskReference("tinyzero.tasks:load_task", "my_task.py:BeatTheSum", {"most": 30})`.
    """

    loader: str
    name: str
    options: dict[str, Any]


class Worker(NamedTuple):
    """A process that grades: the connection to it, and how to kill it with all that it started."""

    connection: socket.socket
    kill: Callable[[], None]


class Job(NamedTuple):
    """Answers that are graded together, and the places that their verdicts go to."""

    found: list[Verdict | None]
    first: int
    answers: int
    request: bytes


class WorkerPool:
    """A grader with worker processes: an answer that hangs, crashes or eats memory costs only itself.

    The task is loaded in each worker by its `reference`. A task without one, such as a class that is
    defined in a notebook, is graded in forks of this process as it is now: make the pool before a
    model is loaded. `timeout` is in seconds for each answer, and `memory` in GB for each worker.

    Example: `with closing(WorkerPool(task, reference, workers=2, timeout=10, memory=4)) as grader:`
    """

    def __init__(
        self,
        judge: Judge,
        reference: TaskReference | None,
        *,
        workers: int,
        timeout: float,
        memory: float,
    ) -> None:
        self.timeout, self.together = timeout, judge.grades_groups
        self._nursery: Nursery | None = None
        if reference is None:
            self._nursery = Nursery(judge, memory)
            self._new: Callable[[], Worker] = self._nursery.worker
        else:
            self._new = partial(start_program, reference, memory)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._found: dict[Hashable, list[Verdict | None]] = {}
        self._changed = threading.Condition()
        self._broken: Exception | None = None
        self._closed = False
        self._workers: list[Worker | None] = [None] * workers
        self._threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True, name=f"grading {i}")
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Start grading the answers of one group, and return at once.

        Raises UserError if the fields of a problem cannot be written as JSON.
        """
        found: list[Verdict | None] = [None] * len(texts)
        with self._changed:
            self._found[key] = found
        size = max(1, len(texts)) if self.together else 1
        for first in range(0, len(texts), size):
            rows = slice(first, first + size)
            request = _request(problems[rows], texts[rows])
            self._jobs.put(Job(found, first, len(texts[rows]), request))

    def collect(self, key: Hashable) -> list[Verdict]:
        """Wait for the group's verdicts. Raises UserError if no worker can be started."""
        found = self._found[key]
        with self._changed:
            self._changed.wait_for(lambda: self._broken or all(found))
            if self._broken is not None:
                raise self._broken
            del self._found[key]
        return [verdict for verdict in found if verdict is not None]

    def close(self) -> None:
        """Kill the workers. What is still being graded is given up."""
        self._closed = True
        for one in self._workers:
            if one is not None:
                with suppress(OSError):
                    one.connection.shutdown(socket.SHUT_RDWR)  # wakes up the thread that waits
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        if self._nursery is not None:
            self._nursery.close()

    def _work(self, number: int) -> None:
        """Feed one worker, in a thread of its own."""
        try:
            self._start(number)
            while (job := self._jobs.get()) is not None and not self._closed:
                verdicts = self._grade(number, job)
                with self._changed:
                    job.found[job.first : job.first + job.answers] = verdicts
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self._broken = self._broken or error
                self._changed.notify_all()
        finally:
            self._end(number)

    def _grade(self, number: int, job: Job) -> Sequence[Verdict]:
        """The verdicts on a job. An answer whose worker dies is tried once more in a new one."""
        limit = self.timeout * job.answers
        for _ in range(TRIES):
            current = self._workers[number] or self._start(number)
            try:
                verdicts, full = _ask(current.connection, job, limit)
            except TimeoutError:
                self._end(number)
                said = f"the grader took longer than {limit:g} s (grading.timeout)"
                return [failed("timeout", said)] * job.answers
            except (OSError, EOFError, ValueError, RecursionError):
                self._end(number)
                if self._closed:
                    break
                continue
            if full:  # its memory is half used up: the next answer gets a new one
                self._end(number)
            return verdicts
        return [failed("raised", DIED)] * job.answers

    def _start(self, number: int) -> Worker:
        """A new worker that has loaded the task. Raises UserError if it cannot."""
        new = self._workers[number] = self._new()
        if self._closed:
            raise UserError("the grader is closed")
        deadline = time.monotonic() + LOADING
        try:
            said = worker.receive(new.connection, worker.LONGEST_VERDICT, deadline)
        except TimeoutError:
            raise UserError(f"the task took longer than {LOADING:g} s to load to grade") from None
        except (OSError, EOFError, ValueError):
            raise UserError(f"cannot load the task to grade: {DIED}") from None
        if said != "ready":
            raise UserError(f"cannot load the task to grade: {said['error']}")
        return new

    def _end(self, number: int) -> None:
        """Kill the worker, if there is one."""
        old, self._workers[number] = self._workers[number], None
        if old is not None:
            old.connection.close()
            old.kill()


def start_program(reference: TaskReference, memory: float) -> Worker:
    """A new Python process that loads the task by its reference."""
    ours, theirs = socket.socketpair()
    path = [folder for folder in sys.path if isinstance(folder, str)]
    given = [path, theirs.fileno(), reference._asdict(), memory]
    with theirs:
        process = subprocess.Popen(
            # -P: a file in the current folder must not stand in for a module
            [sys.executable, "-P", "-c", PROGRAM, json.dumps(given, default=str)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    return Worker(ours, partial(_kill_program, process))


class Nursery:
    """A fork of this process, as small as it is now, that forks workers when it is asked to."""

    def __init__(self, judge: Judge, memory: float) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside other threads
            self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _run_nursery(theirs, judge, memory)
        theirs.close()

    def worker(self) -> Worker:
        """A new worker."""
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            socket.send_fds(self._control, [b"new"], [theirs.fileno()])
            (pid,) = PID.unpack(self._control.recv(PID.size))
        return Worker(ours, partial(self._kill, pid))

    def close(self) -> None:
        """End the nursery; its workers are dead already."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _kill(self, pid: int) -> None:
        """Let the nursery kill a worker, since it is the one that sees it end."""
        with self._lock, suppress(OSError):
            self._control.sendall(PID.pack(pid))
            self._control.recv(1)


def _run_nursery(control: socket.socket, judge: Judge, memory: float) -> NoReturn:
    """In the fork: make and kill workers until the other end is closed."""
    try:
        worker.die_with_parent()
        os.setsid()  # a Ctrl-C is for the run alone
        worker.silence()
        while True:
            message, descriptors, _, _ = socket.recv_fds(control, PID.size, 1)
            if not message:
                break
            if not descriptors:
                (pid,) = PID.unpack(message)
                _kill_group(pid)
                os.waitpid(pid, 0)
                control.sendall(b".")
                continue
            connection = socket.socket(fileno=descriptors[0])
            pid = os.fork()
            if pid == 0:
                control.close()
                worker.die_with_parent()
                os.setsid()
                worker.serve_and_exit(connection, judge, memory)
            connection.close()
            control.sendall(PID.pack(pid))
    finally:
        os._exit(0)


def _ask(connection: socket.socket, job: Job, limit: float) -> tuple[list[Verdict], bool]:
    """The verdicts on a job, and whether the worker's memory fills up.

    Raises TimeoutError after `limit` seconds, and OSError, EOFError, ValueError or RecursionError if
    the worker died or its reply is not one.
    """
    deadline = time.monotonic() + limit
    connection.settimeout(limit)
    worker.send(connection, job.request)
    reply = worker.receive(connection, (job.answers + 1) * 2 * worker.LONGEST_VERDICT, deadline)
    if not isinstance(reply, dict) or len(reply.get("verdicts", ())) != job.answers:
        raise ValueError("no reply")
    return [worker.verdict_from_json(one) for one in reply["verdicts"]], bool(reply.get("full"))


def _request(problems: Sequence[Problem], texts: Sequence[str]) -> bytes:
    """What a worker is sent. Raises UserError if a problem cannot be written as JSON."""
    try:
        plain = [{**vars(problem), "fields": dict(problem.fields)} for problem in problems]
        return json.dumps({"problems": plain, "texts": list(texts)}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"fields of a problem cannot be written as JSON: {error}") from None


def _kill_program(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `start_program` with all that it started."""
    _kill_group(process.pid)
    process.wait()


def _kill_group(pid: int) -> None:
    """Kill a process group that was started here."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
