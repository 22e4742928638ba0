"""The wording of a problem: the package's own question, with a word on where the answer goes."""

from __future__ import annotations

from tinyzero.tasks.prompts import posed, worked_examples
from tinyzero.types import Prompt

TAGS = (
    "Show your work in <think> </think> tags. "
    "And return the final answer in <answer> </answer> tags."
)


def prompt(question: str, template: str) -> Prompt:
    """`question` in one of `tinyzero.tasks.prompts.TEMPLATES`, but not in "instruct-short".

    Raises UserError if there is no such template.

    >>> prompt("What is 3 + 4?", "compact")
    'What is 3 + 4?\\n<think>\\n'
    """
    return posed(question, f"{question}\n\n{TAGS}", template)


def short_prompt(example: str, answer: str, question: str) -> Prompt:
    """A chat in which another problem has been answered, for the template "instruct-short".

    Example: `short_prompt("What is 1 + 2?", "3", "What is 3 + 4?")`.
    """
    return worked_examples([(example, answer)], question)
