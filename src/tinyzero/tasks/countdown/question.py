"""The wording of a Countdown problem."""

from __future__ import annotations

from collections.abc import Sequence

from tinyzero.grading import evaluate_expression
from tinyzero.tasks.prompts import posed, worked_examples
from tinyzero.types import Prompt

EXAMPLES = (
    ((8, 2, 4, 3, 1, 5), "+++++"),
    ((9, 4, 7, 2, 6, 3), "-+-+-"),
    ((6, 3, 5, 2, 8, 4), "*+-+-"),
)
"""The numbers and operators of the worked examples, of which a problem's examples are the first."""


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

    "instruct-short" shows a sum, a difference and a product. A small model copies the form of what
    it is shown: with the sum alone it writes little but sums, and has nothing else to learn from.

    >>> prompt([3, 5, 12], 24, "compact")
    '24 from 3 5 12\\n<think>\\n'
    """
    if template == "instruct-short":
        examples = [_example(*example, len(numbers)) for example in EXAMPLES]
        rules = _more_rules(use_all, may_be_unsolvable, "{}")
        return worked_examples(examples, _short_question(numbers, target) + rules)

    question = (
        f"Using the numbers {list(numbers)}, create an equation that equals {target}. "
        "You can use basic arithmetic operations (+, -, *, /) "
        "and each number can only be used once. "
        "Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, "
        "for example <answer> (1 + 2) / 3 </answer>."
    ) + _more_rules(use_all, may_be_unsolvable, "<answer> {} </answer>")
    return posed(f"{target} from {' '.join(map(str, numbers))}", question, template)


def _example(numbers: Sequence[int], operators: str, count: int) -> tuple[str, str]:
    """A question about the first `count` numbers, and its answer.

    >>> _example((9, 4, 7), "-+", 3)
    ('Use 9, 4 and 7 to make 12.', '9 - 4 + 7')
    """
    answer = str(numbers[0])
    for operator, number in zip(operators, numbers[1:count], strict=False):
        answer += f" {operator} {number}"

    evaluated = evaluate_expression(answer)
    assert evaluated is not None
    return _short_question(numbers[:count], int(evaluated[0])), answer


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
