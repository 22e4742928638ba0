"""Grading in threads, for graders that spend their time waiting for another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from queue import SimpleQueue
from typing import TypeVar

from tinyzero.grading.episodes import Heard, Reply
from tinyzero.grading.graders import LocalGrader
from tinyzero.grading.verdicts import Judge, Verdict, judge_group
from tinyzero.types import Problem

Job = TypeVar("Job")
Result = TypeVar("Result")


def together(
    function: Callable[[Job], Result], jobs: Sequence[Job], places: threading.Semaphore
) -> list[Result | Exception]:
    """The result of each job, in order, or what it raised. `places` limits how many run at once.

    The threads are daemons, so one that waits for an endpoint does not hold up the end of the
    process.

    >>> together(lambda number: 6 // number, [1, 0, 3], threading.Semaphore(2))
    [6, ZeroDivisionError('integer division or modulo by zero'), 2]
    """
    results: dict[int, Result | Exception] = {}

    def work(number: int) -> None:
        with places:
            try:
                results[number] = function(jobs[number])
            except Exception as error:
                results[number] = error

    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(jobs))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(jobs))]


class ThreadedGrader:
    """Grades up to `threads` groups at the same time, while the next ones are being sampled.

    Verdicts do not depend on the number of threads or on their order if the judge's do not.

    Example:

        with closing(ThreadedGrader(task, threads=8)) as grader:
            grader.submit("a", [problem], ["a poem"])
            verdicts = grader.collect("a")
    """

    def __init__(self, judge: Judge, threads: int) -> None:
        self.judge = judge
        self._episodes = LocalGrader(judge)
        self._jobs: SimpleQueue[tuple[Hashable, list[Problem], list[str]] | None] = SimpleQueue()
        self._verdicts: dict[Hashable, list[Verdict] | BaseException] = {}
        self._changed = threading.Condition()
        # daemons: a thread that waits for an endpoint must not hold up the end of the process
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"grading {number}")
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, key: Hashable, problems: Sequence[Problem], texts: Sequence[str]) -> None:
        """Start grading the answers of one group, and return at once."""
        self._jobs.put((key, list(problems), list(texts)))

    def collect(self, key: Hashable) -> list[Verdict]:
        """Wait for the verdicts of the group that was submitted as `key`."""
        with self._changed:
            self._changed.wait_for(lambda: key in self._verdicts)
            graded = self._verdicts.pop(key)
        if isinstance(graded, BaseException):
            raise graded
        return graded

    def respond(self, heard: Sequence[Heard]) -> list[Reply]:
        """What the environments of some episodes answer, one after another."""
        return self._episodes.respond(heard)

    def leave(self, keys: Iterable[Hashable]) -> None:
        """Close those of these episodes that are not over."""
        self._episodes.leave(keys)

    def close(self) -> None:
        """Let the threads end after what they are grading."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            key, problems, texts = job
            graded: list[Verdict] | BaseException
            try:
                graded = judge_group(self.judge, problems, texts)
            except BaseException as error:  # the caller of `collect` gets it
                graded = error
            with self._changed:
                self._verdicts[key] = graded
                self._changed.notify_all()
