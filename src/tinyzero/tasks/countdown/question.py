"""The wording of a Countdown problem."""

from __future__ import annotations

from collections.abc import Sequence

from tinyzero.tasks.prompts import posed, worked_example
from tinyzero.types import Prompt

EXAMPLE = (8, 2, 4, 3, 1, 5)
"""The numbers of the worked example, as many of them as the problem has."""


def prompt(
    numbers: Sequence[int],
    target: int,
    template: str,
    use_all: bool = True,
    may_be_unsolvable: bool = False,
) -> Prompt:
    """Countdown's question in `template`, one of `tinyzero.tasks.prompts.TEMPLATES`.

    "base" and "instruct" are the original TinyZero's text, except that it has a space before
    the question in "instruct". Raises UserError if there is no such template.

    "instruct-short" shows a sum as an example. Eleven wordings were tried on SmolLM2-135M with
    seven dev problems, and this one was best. With 24 dev problems of two numbers up to 20, 8
    answers each at temperature 0.8, it had 0.40 of the answers right, two others 0.33 and 0.24.

    >>> prompt([3, 5, 12], 24, "compact")
    '24 from 3 5 12\\n<think>\\n'
    """
    if template == "instruct-short":
        example = EXAMPLE[: len(numbers)]
        answer = " + ".join(map(str, example))
        asked = _short_question(numbers, target) + _more_rules(use_all, may_be_unsolvable, "{}")
        return worked_example(_short_question(example, sum(example)), answer, asked)

    question = (
        f"Using the numbers {list(numbers)}, create an equation that equals {target}. "
        "You can use basic arithmetic operations (+, -, *, /) "
        "and each number can only be used once. "
        "Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, "
        "for example <answer> (1 + 2) / 3 </answer>."
    ) + _more_rules(use_all, may_be_unsolvable, "<answer> {} </answer>")
    return posed(f"{target} from {' '.join(map(str, numbers))}", question, template)


def _more_rules(use_all: bool, may_be_unsolvable: bool, form: str) -> str:
    """The rules that differ from the original's; `form` is how an answer is written."""
    rules = "" if use_all else " You do not have to use all of the numbers."
    if may_be_unsolvable:
        rules += f" If it cannot be done, answer {form.format('no solution')}."
    return rules


def _short_question(numbers: Sequence[int], target: int) -> str:
    """The question in few words, such as `Use 8, 2 and 4 to make 14.`."""
    *others, last = map(str, numbers)
    return f"Use {', '.join(others)} and {last} to make {target}."
