"""Is this task fit to train on? A grader that can be fooled, or that raises, spoils a run without a word.

`check_task` tries what a model will try, and says what failed on which input.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from numbers import Real
from types import FrameType
from typing import Any, TypeGuard

from tinyzero.errors import UserError
from tinyzero.tasks.base import Task
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.types import SPLITS, Problem, Prompt, Reward, Split

SHOWN = 3  # failures of one kind; the rest are mostly the same
TRIED = 10  # problems of each split that see all the garbage
MAX_SECONDS = 1.0  # for one reward; a sound one takes milliseconds
MAX_WAIT = 120.0  # seconds for anything else: the first problem may have to read a file

Drawn = dict[tuple[Split, int], Problem]

GARBAGE = (
    "",
    " \n\t",
    "hello",
    "\x00\x00\x00",
    "\ud800 half a character \U0001f600",
    "<think></think>",
    "</think>",
    "</think><answer>",
    "</think></answer>",
    "</think><answer></answer>",
    "</think><answer> \n </answer>",
    "</think></answer><answer>",
    "</think><answer>hello</answer>",
    "</think><answer>\x00</answer>",
    "</think><answer>None</answer>",
    "</think><answer>nan</answer>",
    "</think><answer>1/0</answer>",
    "</think><answer>((((</answer>",
    "</think><answer>9**9**9**9</answer>",
    "</think><answer>__import__('os')</answer>",
    "</think><answer>٣ × ４ − ²</answer>",
    "</think><answer>{} % %s \\x</answer>",
)
HUGE = {
    "letters": "a" * 1_000_000,
    "newlines": "\n" * 1_000_000,
    "digits": f"</think><answer>{'9' * 1_000_000}</answer>",
    "open brackets": f"</think><answer>{'(' * 1_000_000}</answer>",
    "minus signs": f"</think><answer>{'-' * 1_000_000}1</answer>",
    "spaces": f"</think><answer>{' ' * 1_000_000}x</answer>",
    "open tags": "</think>" + "<answer>" * 125_000,
    "closed tags": "</think>" + "</answer>" * 110_000,
    "empty answers": "</think>" + "<answer></answer>" * 60_000,
    "ends of thinking": "</think>" * 125_000,
}


def check_task(task: Task, problems: int = 200) -> list[str]:
    """What is wrong with `task`, one line a failure with the input that failed; empty if it passes.

    Tries `problems` problems of each split. What never ends is interrupted in the main thread on Unix; elsewhere it
    hangs, and only what is slow is found out. Raises UserError where `problems` is below 1.
    """
    if problems < 1:
        raise UserError(f"{problems} problems show nothing of a task: try at least 1")
    drawn, failures = _draw(task, problems)
    for check in (_same_again, _disjoint, _prompts, _solutions, _garbage, _huge):
        failures += islice(check(task, drawn), SHOWN)
    return failures


def _draw(task: Task, problems: int) -> tuple[Drawn, list[str]]:
    """The problems by split and index, and what went wrong: nothing more is drawn of a split that failed."""
    drawn: Drawn = {}
    failures = []
    for split in SPLITS:
        for index in range(problems):
            problem = _attempt(task.problem, split, index)
            if not (
                isinstance(problem, Problem)
                and isinstance(problem.id, str)
                and isinstance(problem.key, str)
            ):
                failures.append(
                    f"problem({split!r}, {index}) {_said(problem)} instead of a Problem with id and key"
                )
                break
            if isinstance(
                error := _attempt(lambda fields: json.dumps(dict(fields)), problem.fields),
                Exception,
            ):
                failures.append(
                    f"fields of problem({split!r}, {index}) cannot be written as JSON: {error}"
                )
                break
            if problem.split != split:
                failures.append(
                    f"problem({split!r}, {index}) says that its split is {problem.split!r}"
                )
                break
            drawn[split, index] = problem
    return drawn, failures


def _same_again(task: Task, drawn: Drawn) -> Iterator[str]:
    for split, index in reversed(drawn):  # another order finds a hidden stream of random numbers
        again = _attempt(task.problem, split, index)
        if again != drawn[split, index]:
            yield f"problem({split!r}, {index}) was {drawn[split, index]} and, asked again, {_said(again)}"


def _disjoint(task: Task, drawn: Drawn) -> Iterator[str]:
    for name in ("key", "id"):
        first: dict[str, Split] = {}
        for problem in drawn.values():
            value = getattr(problem, name)
            if first.setdefault(value, problem.split) != problem.split:
                yield f"{name} {_show(value)} is in the splits {first[value]} and {problem.split}"


def _prompts(task: Task, drawn: Drawn) -> Iterator[str]:
    for problem in drawn.values():
        prompts = [_attempt(task.prompt, problem, template) for template in TEMPLATES]
        if not any(map(_is_prompt, prompts)):
            yield f"prompt of problem {problem.id!r} {_said(prompts[0])} instead of text or messages, in any template"
        for template, prompt in zip(TEMPLATES, prompts, strict=True):
            if not _is_prompt(prompt) and not isinstance(prompt, UserError):
                yield f"prompt of problem {problem.id!r} in template {template!r} {_said(prompt)}: raise UserError"


def _solutions(task: Task, drawn: Drawn) -> Iterator[str]:
    for problem in drawn.values():
        solution = _attempt(task.solution, problem)
        if not isinstance(solution, str):
            yield f"solution of problem {problem.id!r} {_said(solution)} instead of text"
            continue
        reward = _judged(task, problem, solution)
        if not _is_reward(reward) or reward.value != 1.0:
            yield f"own solution {_show(solution)} of problem {problem.id!r} {_said(reward)} instead of Reward(1.0)"


def _garbage(task: Task, drawn: Drawn) -> Iterator[str]:
    for (_, index), problem in drawn.items():
        for text in (
            (*GARBAGE, str(_attempt(task.prompt, problem, "base"))) if index < TRIED else ()
        ):
            yield from _worthless(task, problem, text)


def _huge(task: Task, drawn: Drawn) -> Iterator[str]:
    for problem in islice(drawn.values(), 1):
        for text in HUGE.values():
            yield from _worthless(task, problem, text)


def _worthless(task: Task, problem: Problem, text: str) -> Iterator[str]:
    """Says so if the reward of the garbage `text` raises, is full, is no reward, or is slow."""
    start = time.perf_counter()
    reward = _judged(task, problem, text)
    seconds = time.perf_counter() - start
    if seconds > MAX_SECONDS:
        yield f"reward of {_show(text)} for problem {problem.id!r} took over {MAX_SECONDS:g} s"
    elif not _is_reward(reward) or reward.value >= 1.0:
        yield f"reward of {_show(text)} for problem {problem.id!r} {_said(reward)} instead of a Reward below 1.0"


def _judged(task: Task, problem: Problem, text: str) -> Any:
    return _attempt(task.reward, problem, text, seconds=MAX_SECONDS * 2)


def _attempt(function: Any, *arguments: Any, seconds: float | None = None) -> Any:
    """What `function` returns, or the exception it raises, a timeout included."""
    seconds = seconds or MAX_WAIT
    try:
        with _interrupted_after(seconds):
            return function(*arguments)
    except (Exception, SystemExit) as error:
        return error
    except _TooLong:
        return TimeoutError(f"took over {seconds:g} s")


class _TooLong(BaseException):
    """Not an Exception, which the code that takes too long may well catch."""


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _is_reward(reward: Any) -> TypeGuard[Reward]:
    if not isinstance(reward, Reward) or not isinstance(reward.parts, Mapping):
        return False
    numbers = (reward.value, *reward.parts.values())
    return all(isinstance(number, Real) and math.isfinite(number) for number in numbers)


def _is_prompt(prompt: Prompt | Exception) -> bool:
    if isinstance(prompt, str):
        return bool(prompt.strip())
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(
            isinstance(message, Mapping) and {"role", "content"} <= message.keys()
            for message in prompt
        )
    )


def _said(result: Any) -> str:
    if isinstance(result, BaseException):
        return f"raises {type(result).__name__}: {_show(str(result))}"
    return f"gives {_show(result)}"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text):,} characters)"
