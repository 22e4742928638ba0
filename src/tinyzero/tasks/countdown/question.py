"""The wording of a Countdown problem."""

from __future__ import annotations

from collections.abc import Sequence

from tinyzero.tasks.prompts import posed
from tinyzero.types import Prompt


def prompt(numbers: Sequence[int], target: int, template: str) -> Prompt:
    """Countdown's question in `template`, one of `tinyzero.tasks.prompts.TEMPLATES`.

    "base" and "instruct" are the original TinyZero's text, except that it has a space before
    the question in "instruct". Raises UserError if there is no such template.

    >>> prompt([3, 5, 12], 24, "compact")
    '24 from 3 5 12\\n<think>\\n'
    """
    question = (
        f"Using the numbers {list(numbers)}, create an equation that equals {target}. "
        "You can use basic arithmetic operations (+, -, *, /) "
        "and each number can only be used once. "
        "Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, "
        "for example <answer> (1 + 2) / 3 </answer>."
    )
    return posed(f"{target} from {' '.join(map(str, numbers))}", question, template)
