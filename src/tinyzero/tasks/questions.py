"""Questions for graded tasks: from a file of the user, or from another task of this package.

The questions of another task have a right answer. It is measured as `behaviour/truth`, never
rewarded, so that a run shows whether a reward model or a judge still agrees with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from tinyzero.errors import UserError, short_path
from tinyzero.tasks.base import Chart, NoSolution, Task
from tinyzero.tasks.files import numbered_lines, read_json
from tinyzero.tasks.prompts import require_template
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import SPLITS, Problem, Prompt, Split

USER_TURN = "\nUser:"  # a base model that writes this has begun to ask itself
PIECE = re.compile(r"\w+|[^\w\s]")
GRAM = 3  # words and signs in a row that are compared to find repetition
ROLES = ("system", "user", "assistant")

GLOSSARY = {
    "behaviour/truth": (
        "Share of the completions that the task behind the questions calls right. It is measured "
        "and never rewarded."
    ),
    "behaviour/majority": "Share of the completions that are the most common one, word for word.",
    "behaviour/repetition": (
        f"Share of the {GRAM} words or signs in a row that had occurred before in the same "
        "completion."
    ),
}


class GradedOptions(BaseModel):
    """Where the questions of a graded task come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    data: str = Field(
        default="countdown",
        description="the questions: a .jsonl or .txt file, or another bundled task, whose own "
        "grading is then measured as behaviour/truth",
    )
    data_options: dict[str, Any] = Field(
        default={}, description="options of the task that `data` names"
    )


class Questions(Protocol):
    """Where the questions come from."""

    @property
    def stop(self) -> Sequence[str]:
        """What ends an answer."""
        ...

    def problem(self, split: Split, index: int) -> Problem:
        """The question at `index`, as a problem."""
        ...

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The prompt that poses the question to the model."""
        ...

    def size(self, split: Split) -> int | None:
        """How many questions the split has; None if there is no limit."""
        ...

    def asked(self, problem: Problem) -> str:
        """The question as text, for a judge or a reward model."""
        ...

    def truth(self, problem: Problem, text: str) -> float | None:
        """1 if the answer is right and 0 if it is wrong; None if nobody knows."""
        ...


class FileQuestions:
    """The questions of a file: one per line of a .txt file, or one row per line of a .jsonl file.

    A row is a text, or has `prompt`: a text or chat messages. A question's text decides its split.
    """

    stop: Sequence[str] = (USER_TURN,)

    def __init__(self, path: Path) -> None:
        self.rows: dict[Split, list[Problem]] = {split: [] for split in SPLITS}
        for question in dict.fromkeys(map(json.dumps, read_questions(path))):
            split = split_by_key(question)
            name = hashlib.sha256(question.encode()).hexdigest()[:16]
            problem = Problem(name, {"prompt": json.loads(question)}, split, key=name)
            self.rows[split].append(problem)
        if not self.rows["train"]:
            raise UserError(f"task.data: {short_path(path)} has too few questions to train on")

    def problem(self, split: Split, index: int) -> Problem:
        """The question at `index`; after the last one comes the first one again."""
        rows = self.rows[split]
        if not rows:
            raise UserError(f"split {split!r} has no question: give a file with more questions")
        return rows[index % len(rows)]

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question in the form that `template` names."""
        require_template(template)
        asked = problem.fields["prompt"]
        if template in ("chat", "instruct", "instruct-short"):
            return [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
        text = self.asked(problem)
        return f"{text}\n" if template == "compact" else f"User: {text}\nAssistant:"

    def size(self, split: Split) -> int:
        """How many questions the split has."""
        return len(self.rows[split])

    def asked(self, problem: Problem) -> str:
        """The question; of chat messages, all of them with their roles."""
        return plain_text(problem.fields["prompt"])

    def truth(self, problem: Problem, text: str) -> None:
        """Nobody knows."""


class TaskQuestions:
    """The problems of another task of this package, whose grading is the truth about an answer."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.stop: Sequence[str] = tuple(task.stop)

    def problem(self, split: Split, index: int) -> Problem:
        """The other task's problem."""
        return self.task.problem(split, index)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The other task's prompt."""
        return self.task.prompt(problem, template)

    def size(self, split: Split) -> int | None:
        """The other task's size."""
        return self.task.size(split)

    def asked(self, problem: Problem) -> str:
        """The shortest form of the question."""
        return plain_text(self.task.prompt(problem, "compact")).removesuffix("\n<think>\n")

    def truth(self, problem: Problem, text: str) -> float | None:
        """What the other task says about the answer."""
        right = self.task.reward(problem, text).right  # type: ignore[union-attr]
        return None if right is None else float(right)


class GradedTask(Task):
    """The base of tasks whose rewards are graded, neither right nor wrong: all but the rewards.

    `measure` gives the truth if it is known, how much an answer repeats itself, and a number that
    is the same for the same text, from which `summarise` finds the share of the most common answer.
    """

    glossary: Mapping[str, str] = GLOSSARY
    sources: Sequence[str] = ("data", "data_options")
    charts: Sequence[Chart] = (
        Chart(
            "Signs of reward hacking",
            "The reward is graded; these are measured apart, and should not go the wrong way.",
            (
                ("behaviour/truth", "right by the task behind the questions"),
                ("behaviour/majority", "the most common answer"),
                ("behaviour/repetition", "repeated text"),
            ),
            "share",
        ),
    )

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.stop = ()
        is_default = self.options.data == type(self.options).model_fields["data"].default
        # the task that is asked by default may be missing: this one can be described without it
        with suppress(UserError) if is_default else nullcontext():
            self.stop = tuple(self.questions.stop)

    @cached_property
    def questions(self) -> Questions:
        """The questions that are asked. Raises UserError if they cannot be read."""
        return open_questions(self.options.data, self.options.data_options)

    def problem(self, split: Split, index: int) -> Problem:
        """The question at `index` of the split."""
        return self.questions.problem(split, index)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The prompt that poses the question."""
        return self.questions.prompt(problem, template)

    def size(self, split: Split) -> int | None:
        """How many questions there are."""
        return self.questions.size(split)

    def solution(self, problem: Problem) -> str:
        """Raises NoSolution: no text is known to earn full marks."""
        raise NoSolution("graded answers have no known solution")

    def measure(self, problem: Problem, text: str) -> Mapping[str, float]:
        """The truth about the answer, if it is known, and what reveals reward hacking."""
        answer = self.answer(text)
        truth = self.questions.truth(problem, text)
        measured = {"repetition": repetition(answer), "text": float(number_of(answer))}
        return measured if truth is None else {"truth": truth, **measured}

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Means, and the share of the most common answer."""
        counts = Counter(numbers["text"] for numbers in measured)
        rest = [{key: numbers[key] for key in numbers if key != "text"} for numbers in measured]
        majority = max(counts.values()) / len(measured) if measured else 0.0
        return {**super().summarise(rest), "behaviour/majority": majority}

    def answer(self, text: str) -> str:
        """The part of a completion that is graded: no thinking of the model, and no stop string."""
        for stop in self.stop:
            if stop == USER_TURN:
                text = text.removesuffix(stop)
        if isinstance(self.questions, TaskQuestions):
            return text.strip()
        return text.rpartition("</think>")[2].strip()


def open_questions(source: str, options: Mapping[str, Any]) -> Questions:
    """The questions of a file, or of a task with these options.

    Raises UserError if there is no such file or task.
    """
    from tinyzero.tasks import TASKS, load_task  # the tasks import this module

    if source in TASKS:
        task = load_task(source, options).owner
        if isinstance(task, GradedTask):
            raise UserError(f"task.data is {source!r}, which is graded itself: name another task")
        return TaskQuestions(task)

    path = Path(source)
    if options:
        raise UserError(f"task.data_options has no effect: {source!r} is not a task")
    if not path.is_file():
        raise UserError(
            f"task.data is {source!r}, which is neither a file nor one of the tasks "
            f"{', '.join(TASKS)}"
        )
    return FileQuestions(path)


def read_questions(path: Path) -> list[str | list[dict[str, str]]]:
    """The questions of a file: texts, or lists of chat messages.

    Raises UserError, naming the line, if a question cannot be read.
    """
    questions: list[str | list[dict[str, str]]] = []
    for number, line in numbered_lines(path):
        question = line.strip() if path.suffix == ".txt" else _question(path, number, line)
        questions.append(question)
    return questions


def _question(path: Path, number: int, line: str) -> str | list[dict[str, str]]:
    try:
        row = read_json(line)
    except ValueError:
        raise UserError(f"{short_path(path)}, line {number} is not JSON: {line!r:.60}") from None
    asked: Any = row.get("prompt") if isinstance(row, dict) else row
    if not is_conversation(asked):
        raise UserError(
            f"{short_path(path)}, line {number}: give a text, or an object with `prompt`, which is "
            "a text or a list of messages with role and content"
        )
    question: str | list[dict[str, str]] = asked
    return question


def is_conversation(value: Any) -> bool:
    """Whether this is a text that is not empty, or a list of chat messages.

    >>> is_conversation("Why?"), is_conversation([{"role": "user", "content": "Why?"}])
    (True, True)
    """
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and message.get("role") in ROLES
            and isinstance(message.get("content"), str)
            for message in value
        )
    )


def plain_text(prompt: Prompt) -> str:
    """A prompt as one text; a single message alone, several with their roles.

    >>> plain_text([{"role": "user", "content": "Why?"}])
    'Why?'
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def repetition(text: str) -> float:
    """The share of the three words or signs in a row that have occurred before in the text.

    >>> repetition("so so so so so"), repetition("a short text")
    (0.6666666666666667, 0.0)
    """
    pieces = PIECE.findall(text)
    grams = [tuple(pieces[start : start + GRAM]) for start in range(len(pieces) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def number_of(text: str) -> int:
    """A whole number below 2**48 that stands for the text."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big")
