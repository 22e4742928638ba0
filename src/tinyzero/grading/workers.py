"""Grading in worker processes, so that no grader can hang, crash or slow down a run.

A worker that takes too long is killed, together with everything it started, and a new one grades
the next answer. Verdicts do not depend on the number of workers or on their order.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, NoReturn

from tinyzero.errors import UserError
from tinyzero.grading import worker
from tinyzero.grading.episodes import Heard, Reply
from tinyzero.grading.forks import ForkServer, fork_on_request
from tinyzero.grading.sandbox import Choice
from tinyzero.grading.verdicts import Judge, Verdict, failed
from tinyzero.types import Failure, Problem

LOADING = 120.0  # seconds that a worker may take to load its task
TRIES = 2  # attempts at grading an answer if the worker dies
DIED = "the grader's process died"
PROGRAM = (
    "import json, sys; sys.path[:], *more = json.loads(sys.argv[1]); "
    "from tinyzero.grading.worker import main; main(*more)"
)


class TaskReference(NamedTuple):
    """How another process loads a task: it calls `loader` with `name` and `options`.

    Example: `TaskReference("tinyzero.tasks:load_task", "my_task.py:BeatTheSum", {"most": 30})`.
    """

    loader: str
    name: str
    options: dict[str, Any]


class Worker(NamedTuple):
    """A process that grades: the connection to it, and how to kill it and all that it started."""

    connection: socket.socket
    kill: Callable[[], None]


Result = Verdict | Reply


class Job(NamedTuple):
    """Answers of a group that are graded by one request, or one turn of an episode."""

    results: list[Any]
    """The verdicts of the whole group, or the replies of all episodes; None for those to come."""
    first: int
    """The index of the first of these answers in `results`."""
    answers: int
    """How many answers there are."""
    request: bytes
    """The message to the worker, as JSON."""
    turns: int = 0
    """The turns that the episode hears; 0 if the job is to grade answers."""

    def failed(self, failure: Failure, error: str) -> list[Result]:
        """The results if the worker failed."""
        verdict = failed(failure, error)
        return [Reply(None, verdict)] if self.turns else [verdict] * self.answers


class WorkerPool:
    """A grader with worker processes. A grader that hangs or crashes spoils only one answer.

    Each worker loads the task by its `reference`. A task without one, such as a class that is
    defined in a notebook, is graded in forks of this process: create the pool before a model is
    loaded, so that the forks are small. `timeout` is in seconds per answer, and `memory` in GB per
    worker. `sandbox` is the tier for tasks that run programs.

    Example:

        with closing(WorkerPool(task, reference, workers=2, timeout=10, memory=4)) as grader:
            grader.submit("a", [problem], ["</think><answer>42</answer>"])
            verdicts = grader.collect("a")
    """

    def __init__(
        self,
        judge: Judge,
        reference: TaskReference | None,
        *,
        workers: int,
        timeout: float,
        memory: float,
        sandbox: Choice = "auto",
    ) -> None:
        self.timeout = timeout
        self.together = judge.grades_groups

        self._nursery: Nursery | None = None
        if reference is None:
            self._nursery = Nursery(judge, memory)
            self._start_worker: Callable[[], Worker] = self._nursery.worker
        else:
            self._start_worker = partial(start_program, reference, memory, sandbox)

        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._verdicts: dict[Hashable, list[Any]] = {}
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._closed = False

        self._workers: list[Worker | None] = [None] * workers
        self._threads = [
            threading.Thread(
                target=self._work, args=(number,), daemon=True, name=f"grading {number}"
            )
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Start grading the answers of one group, and return at once.

        Raises UserError if the fields of a problem cannot be written as JSON.
        """
        verdicts: list[Any] = [None] * len(texts)
        with self._changed:
            self._verdicts[key] = verdicts

        answers_per_job = max(1, len(texts)) if self.together else 1
        for first in range(0, len(texts), answers_per_job):
            rows = slice(first, first + answers_per_job)
            request = _message(problems[rows], texts=list(texts[rows]))
            self._jobs.put(Job(verdicts, first, len(texts[rows]), request))

    def collect(self, key: Hashable) -> list[Verdict]:
        """Wait for the group's verdicts: one per text, in order.

        Raises UserError if no worker can be started.
        """
        verdicts = self._wait(self._verdicts[key])
        with self._changed:
            del self._verdicts[key]
        return verdicts

    def respond(self, heard: Sequence[Heard]) -> list[Reply]:
        """The replies of some episodes. Each is played again from its beginning, in some worker.

        Raises UserError if the fields of a problem cannot be written as JSON.
        """
        replies: list[Any] = [None] * len(heard)
        for index, one in enumerate(heard):
            self._jobs.put(Job(replies, index, 1, _episode_message(one), len(one.said)))
        return self._wait(replies)

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Do nothing: no episode stays open in a worker."""

    def _wait(self, results: list[Any]) -> list[Any]:
        """Wait until all `results` are there. Raises UserError if no worker can be started."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or None not in results)
            if self._error is not None:
                raise self._error
        return results

    def close(self) -> None:
        """Kill the workers. Answers that are still being graded get no verdict."""
        self._closed = True
        for running in self._workers:
            if running is not None:
                with suppress(OSError):
                    running.connection.shutdown(socket.SHUT_RDWR)  # wakes up the waiting thread

        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

        if self._nursery is not None:
            self._nursery.close()

    def _work(self, number: int) -> None:
        """Give one worker job after job. Each worker has a thread that runs this."""
        try:
            self._start(number)
            while (job := self._jobs.get()) is not None and not self._closed:
                results = self._grade(number, job)
                with self._changed:
                    job.results[job.first : job.first + job.answers] = results
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
        finally:
            self._stop(number)

    def _grade(self, number: int, job: Job) -> Sequence[Result]:
        """The results of a job. If the worker dies, a new one tries once more."""
        limit = self.timeout * (job.turns or job.answers)
        for _ in range(TRIES):
            current = self._workers[number] or self._start(number)
            try:
                results, full = _ask(current.connection, job, limit)
            except TimeoutError:
                self._stop(number)
                what = "episode" if job.turns else "grader"
                error = f"the {what} took longer than {limit:g} s (grading.timeout)"
                return job.failed("timeout", error)
            except (OSError, EOFError, ValueError, RecursionError):
                self._stop(number)
                if self._closed:
                    break
                continue

            if full:  # half of its memory is used up: a new worker grades the next answer
                self._stop(number)
            return results

        return job.failed("raised", DIED)

    def _start(self, number: int) -> Worker:
        """A new worker that has loaded the task. Raises UserError if it cannot."""
        started = self._workers[number] = self._start_worker()
        if self._closed:
            raise UserError("the grader is closed")

        deadline = time.monotonic() + LOADING
        try:
            reply = worker.receive(started.connection, worker.LONGEST_VERDICT, deadline)
        except TimeoutError:
            raise UserError(f"the task took longer than {LOADING:g} s to load to grade") from None
        except (OSError, EOFError, ValueError):
            raise UserError(f"cannot load the task to grade: {DIED}") from None

        if reply != "ready":
            raise UserError(f"cannot load the task to grade: {reply['error']}")
        return started

    def _stop(self, number: int) -> None:
        """Kill the worker, if there is one."""
        running = self._workers[number]
        self._workers[number] = None
        if running is not None:
            running.connection.close()
            running.kill()


def start_program(reference: TaskReference, memory: float, sandbox: Choice = "auto") -> Worker:
    """A new Python process that loads the task by its reference."""
    ours, theirs = socket.socketpair()
    import_path = [folder for folder in sys.path if isinstance(folder, str)]
    arguments = [import_path, theirs.fileno(), reference._asdict(), memory, sandbox]

    with theirs:
        process = subprocess.Popen(
            # -P: a file in the current folder must not be imported instead of a module
            [sys.executable, "-P", "-c", PROGRAM, json.dumps(arguments, default=str)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )

    return Worker(ours, partial(_kill_program, process))


class Nursery:
    """A fork of this process, as small as the process is now, which forks workers on request."""

    def __init__(self, judge: Judge, memory: float) -> None:
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about forks with threads
            self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _run_nursery(theirs, judge, memory)
        theirs.close()
        self._server = ForkServer(ours)

    def worker(self) -> Worker:
        """A new worker, forked by the nursery."""
        pid, connection = self._server.fork()
        return Worker(connection, partial(self._kill, pid))

    def close(self) -> None:
        """Stop the nursery, after its workers."""
        self._server.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _kill(self, pid: int) -> None:
        with suppress(OSError, EOFError):
            self._server.kill(pid)


def _run_nursery(control: socket.socket, judge: Judge, memory: float) -> NoReturn:
    """The nursery's own process: fork and kill workers until the other end is closed."""

    def run_worker(connection: socket.socket) -> NoReturn:
        worker.die_with_parent()
        worker.serve_and_exit(connection, judge, memory)

    try:
        worker.die_with_parent()
        os.setsid()  # Ctrl-C must reach the run alone
        worker.silence()
        fork_on_request(control, run_worker)
    finally:
        os._exit(0)


def _ask(connection: socket.socket, job: Job, limit: float) -> tuple[Sequence[Result], bool]:
    """The results of a job, and whether the worker has used up half of its memory.

    Raises TimeoutError after `limit` seconds, or OSError, EOFError, ValueError or RecursionError
    if the worker died or its reply is malformed.
    """
    deadline = time.monotonic() + limit
    connection.settimeout(limit)
    worker.send(connection, job.request)

    longest_reply = (job.answers + 1) * 2 * worker.LONGEST_VERDICT
    reply = worker.receive(connection, longest_reply, deadline)
    if not isinstance(reply, dict) or not isinstance(reply.get("verdicts"), list):
        raise ValueError("not a reply")

    verdicts = [worker.verdict_from_json(plain) for plain in reply["verdicts"]]
    is_full = bool(reply.get("full"))
    if job.turns:
        return [_reply(reply.get("text"), verdicts)], is_full
    if len(verdicts) != job.answers:
        raise ValueError("not a reply")
    return verdicts, is_full


def _reply(text: Any, verdicts: Sequence[Verdict]) -> Reply:
    """The reply of an episode. Raises ValueError if it is not a reply."""
    is_text = isinstance(text, str)
    if len(verdicts) > 1 or not (is_text or verdicts):
        raise ValueError("not the reply of an episode")
    return Reply(text if is_text else None, verdicts[0] if verdicts else None)


def _message(problems: Sequence[Problem], **rest: Any) -> bytes:
    """The message to a worker. Raises UserError if a problem cannot be written as JSON."""
    try:
        plain = [{**vars(problem), "fields": dict(problem.fields)} for problem in problems]
        return json.dumps({"problems": plain, **rest}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"fields of a problem cannot be written as JSON: {error}") from None


def _episode_message(heard: Heard) -> bytes:
    """The message to a worker that is to play an episode up to its last turn."""
    return _message([heard.problem], said=heard.said, replies=heard.replies, is_last=heard.is_last)


def _kill_program(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `start_program`, and everything it started."""
    _kill_group(process.pid)
    process.wait()


def _kill_group(pid: int) -> None:
    """Kill a process group that this module started, unless it has ended."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
