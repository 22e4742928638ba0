"""The wording of a problem, and where the answer is in a completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinyzero.grading import find_answer
from tinyzero.tasks.prompts import posed, worked_examples
from tinyzero.types import Prompt

LONGEST_CODE = 20_000  # characters; a longer answer is not run
FENCE = "```"
LANGUAGES = ("", "python", "py", "python3")

EXAMPLE = {
    "question": "",
    "function": "f",
    "starter": "",
    "examples": [["2", "5"], ["10", "13"], ["-4", "-1"]],
}
EXAMPLE_ANSWER = f"{FENCE}python\ndef f(x):\n    return x + 3\n{FENCE}"


def prompt(fields: Mapping[str, Any], template: str) -> Prompt:
    """The question in `template`, one of `tinyzero.tasks.prompts.TEMPLATES`.

    Raises UserError if there is no such template.

    >>> prompt(EXAMPLE, "compact")
    'f(2)=5 f(10)=13 f(-4)=-1\\n<think>\\n'
    """
    if template == "instruct-short":
        return worked_examples([(_question(EXAMPLE), EXAMPLE_ANSWER)], _question(fields))

    question = (
        f"{_question(fields)} Show your work in <think> </think> tags. "
        "And return the whole function in <answer> </answer> tags, "
        "for example <answer> def f(x): return x + 1 </answer>."
    )
    short = fields["question"] or fields["starter"] or _examples(fields, "=", " ")
    return posed(short, question, template)


def find_code(text: str) -> str | None:
    r"""The program that a completion answers with, or None.

    It is in the last `<answer>` after `</think>`, or in the last code block: after `</think>`, or
    anywhere if there is no `</think>`, because a short chat has no thinking.

    >>> find_code("</think>\n<answer>def f(x): return x</answer>")
    'def f(x): return x'
    >>> find_code("Here it is:\n```python\ndef f(x):\n    return x\n```\nIt works.")
    'def f(x):\n    return x'
    >>> find_code("def f(x): return x") is None
    True
    """
    answer = find_answer(text, "<answer>", "</answer>", after="</think>", longest=LONGEST_CODE)
    code = _last_block(answer if answer is not None else text.rpartition("</think>")[2])
    if code is None:
        code = answer
    return code if code and len(code) <= LONGEST_CODE else None


def _last_block(text: str) -> str | None:
    """What is in the last code block of a text, without the name of the language."""
    end = text.rfind(FENCE)
    start = text.rfind(FENCE, 0, max(end, 0))
    if start < 0:
        return None

    content = text[start + len(FENCE) : end]
    first_line, line_break, rest = content.partition("\n")
    has_language = line_break and first_line.strip().lower() in LANGUAGES
    return (rest if has_language else content).strip("\r\n")


def _question(fields: Mapping[str, Any]) -> str:
    """What is asked for, with the examples."""
    name = fields["function"]
    if fields["starter"]:
        return f"Complete this Python function:\n{FENCE}python\n{fields['starter']}\n{FENCE}\n"

    examples = _examples(fields, " == ", ", ")
    if fields["question"]:
        return f"{fields['question']} Call the Python function {name}. An example: {examples}."
    return f"Write a Python function {name} for which {examples}. It is tested with other inputs."


def _examples(fields: Mapping[str, Any], equals: str, between: str) -> str:
    """The examples, such as `f(2) == 5, f(10) == 13`."""
    examples: Sequence[Sequence[str]] = fields["examples"]
    return between.join(
        f"{fields['function']}({arguments}){equals}{value}" for arguments, value in examples
    )
