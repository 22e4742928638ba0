"""The words Countdown is posed in."""

from __future__ import annotations

from collections.abc import Sequence

from tinyzero.tasks.prompts import posed
from tinyzero.types import Prompt


def prompt(numbers: Sequence[int], target: int, template: str) -> Prompt:
    """Countdown's question under `template`.

    Under "base" and "instruct" it is TinyZero's text, without the space that it has before the question
    in the latter. Raises UserError on an unknown template.
    """
    question = (
        f"Using the numbers {list(numbers)}, create an equation that equals {target}. You can use basic arithmetic "
        "operations (+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )
    return posed(f"{target} from {' '.join(map(str, numbers))}", question, template)
