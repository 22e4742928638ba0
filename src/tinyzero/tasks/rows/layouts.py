"""The layouts of rows: which columns hold the question and the answer.

| layout    | question                        | answer                                  |
|-----------|---------------------------------|-----------------------------------------|
| `verl`    | `prompt`, as chat messages      | `reward_model.ground_truth`             |
| `gsm8k`   | `question`                      | `answer`, after the last `####`         |
| `trl`     | `prompt`, as text or messages   | one of ANSWERS, or none                 |
| `columns` | one of QUESTIONS                | one of ANSWERS                          |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tinyzero.errors import UserError, shown
from tinyzero.tasks.tables import Row
from tinyzero.types import Message

LayoutName = Literal["auto", "verl", "gsm8k", "trl", "columns"]

QUESTIONS = ("prompt", "question", "problem", "input", "instruction")
"""The usual names of the column with the question, in the order in which they are looked for."""

ANSWERS = ("ground_truth", "answer", "solution", "target", "label")
"""The usual names of the column with the answer, in the order in which they are looked for."""

CHOICES = ("choices", "options")
"""The usual names of the column with a list of choices."""

SAMPLE = 100  # rows that are looked at to recognise a layout
ROLES = ("system", "user", "assistant")


class Layout(NamedTuple):
    """A layout, and the columns of its question, answer and choices; "" for a column it lacks.

    Example: `Layout("gsm8k", "question", "answer", "")`.
    """

    name: str
    question: str
    answer: str
    choices: str


class Item(NamedTuple):
    """What a row says: the question, the chat messages if it has several, and the answers.

    Several answers are all right. There are no answers if the row does not say them.

    Example: `Item("What is 2+3?", (), ("5",), ())`.
    """

    question: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    is_chat: bool = False


def recognise(
    rows: Sequence[Row], source: str, name: LayoutName, question: str, answer: str, choices: str
) -> Layout:
    """The layout of `rows`, which come from `source`. A given name of a column is taken as it is.

    Raises UserError if a given column is missing, or if there is no column with a question.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    for given in (question, answer, choices):
        if given and given not in columns:
            raise UserError(
                f"{source} has no column {given!r}: it has {', '.join(columns) or 'none'}"
            )

    if name == "auto":
        name = _recognised(rows, columns)
    question = question or _first(("question",) if name == "gsm8k" else QUESTIONS, columns)
    if name == "verl" and not answer:
        answer = "reward_model"
    answer = answer or _first(("answer",) if name == "gsm8k" else ANSWERS, columns)
    if not question:
        raise UserError(
            f"{source} has no column with the question ({', '.join(QUESTIONS)}): name yours with "
            f"--task.question; its columns are {', '.join(columns) or 'none'}"
        )
    return Layout(name, question, answer, choices or _first(CHOICES, columns))


def read_item(row: Row, layout: Layout) -> Item:
    """The question and the answers of one row. Raises UserError if they are not of a usual form."""
    prompt = row.values.get(layout.question)
    is_chat = isinstance(prompt, list)
    messages = _messages(prompt, row.location, layout.question) if isinstance(prompt, list) else ()
    question = _last_question(messages) if is_chat else prompt
    if not isinstance(question, str) or not question.strip():
        raise UserError(
            f"{row.location} has {shown(prompt)} in the column {layout.question}, which must be "
            "the question: fill it in, or remove the row"
        )

    choices = _choices(row, layout)
    answers = _answers(row, layout, choices)
    kept = tuple(messages) if len(messages) > 1 else ()
    return Item(question, kept, answers, choices, is_chat)


def final_part(text: str) -> str:
    """What follows the last `####` of a worked solution, or the whole text without one.

    >>> final_part("2+3=5\\n#### 5")
    '5'
    """
    return text.rpartition("####")[2].strip()


def _recognised(rows: Sequence[Row], columns: Sequence[str]) -> LayoutName:
    """The layout that these columns and the first rows show."""
    first = rows[:SAMPLE]
    if "prompt" in columns and all(_has_ground_truth(row) for row in first):
        return "verl"
    worked = [row.values.get("answer") for row in first]
    if "question" in columns and all(isinstance(w, str) and "####" in w for w in worked):
        return "gsm8k"
    return "trl" if "prompt" in columns else "columns"


def _has_ground_truth(row: Row) -> bool:
    model = row.values.get("reward_model")
    return isinstance(model, Mapping) and "ground_truth" in model


def _first(names: Sequence[str], columns: Sequence[str]) -> str:
    """The first of the names that is a column, or ""."""
    return next((name for name in names if name in columns), "")


def _messages(prompt: Sequence[Any], location: str, column: str) -> list[Message]:
    """The chat messages in a column. Raises UserError if they are not messages of text."""
    messages: list[Message] = []
    for message in prompt:
        content = _content(message)
        if content is None or message.get("role") not in ROLES:
            raise UserError(
                f"{location} has {shown(message)} in the column {column}: a message has a role "
                f"({', '.join(ROLES)}) and a content of text"
            )
        messages.append({"role": message["role"], "content": content})
    return messages


def _content(message: Any) -> str | None:
    """The text of a message, also if it is a list of parts of text; None if it is anything else."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        return "".join(map(str, parts)) if None not in parts else None
    return content if isinstance(content, str) else None


def _last_question(messages: Sequence[Message]) -> str | None:
    """What the user says last, or None."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return asked[-1] if asked else None


def _choices(row: Row, layout: Layout) -> tuple[str, ...]:
    """The choices of a row as text, in order; empty if it has none."""
    choices = row.values.get(layout.choices) if layout.choices else None
    if isinstance(choices, Mapping) and isinstance(choices.get("text"), list):
        choices = choices["text"]  # as ARC has them
    elif isinstance(choices, Mapping):
        choices = list(choices.values())
    if not isinstance(choices, list):
        return ()
    return tuple(as_text(choice) or "" for choice in choices)


def _answers(row: Row, layout: Layout, choices: Sequence[str]) -> tuple[str, ...]:
    """The right answers of a row as text; empty if it has none."""
    value = row.values.get(layout.answer) if layout.answer else None
    if layout.name == "verl" and isinstance(value, Mapping):
        value = value.get("ground_truth")
    if layout.name == "gsm8k" and isinstance(value, str):
        value = final_part(value)
    if isinstance(value, Mapping) and isinstance(value.get("target"), list):
        value = value["target"]  # as verl's search data have it

    is_index = isinstance(value, int) and value in range(len(choices))
    if isinstance(value, int) and is_index and not isinstance(value, bool):
        return (chr(ord("A") + value),)
    values = value if isinstance(value, list) else [value]
    texts = (as_text(one) for one in values)
    return tuple(text for text in texts if text is not None and text.strip())


def as_text(value: Any) -> str | None:
    """An answer as text; None if it is missing, or an object.

    >>> as_text(72.0), as_text(True), as_text("x"), as_text(None)
    ('72', 'true', 'x', None)
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, str | int) else None
