"""The words a product is posed in."""

from __future__ import annotations

from tinyzero.tasks.prompts import posed
from tinyzero.types import Prompt


def prompt(a: int, b: int, template: str) -> Prompt:
    """The question for a*b under `template`.

    Under "base" and "instruct" it is put as Countdown's is, which is not TinyZero's text: that one ends
    with "= Assistant: Ok let me think about it.". Raises UserError on an unknown template.
    """
    question = (
        f"Give me the answer of the following equation: {a} * {b}. Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, for example <answer> 42 </answer>."
    )
    return posed(f"{a}*{b}", question, template)
