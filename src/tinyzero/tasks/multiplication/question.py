"""The wording of a multiplication problem."""

from __future__ import annotations

from tinyzero.tasks.prompts import posed
from tinyzero.types import Prompt


def prompt(a: int, b: int, template: str) -> Prompt:
    """The question for a*b in `template`, one of `tinyzero.tasks.prompts.TEMPLATES`.

    "base" and "instruct" have the form of Countdown's question. The original TinyZero's text
    differs: it ends with "= Assistant: Ok let me think about it.".

    Raises UserError if there is no such template.

    >>> prompt(47, 36, "compact")
    '47*36\\n<think>\\n'
    """
    question = (
        f"Give me the answer of the following equation: {a} * {b}. "
        "Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, for example <answer> 42 </answer>."
    )
    return posed(f"{a}*{b}", question, template)
