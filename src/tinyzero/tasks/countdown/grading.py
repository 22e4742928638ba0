"""The reward of an answer to Countdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tinyzero.grading import answer_reward, evaluate_expression, extract_answer
from tinyzero.grading.answers import SPACES
from tinyzero.tasks.countdown.solver import is_solvable
from tinyzero.types import Reward

NO_SOLUTION = "no solution"
"""The answer that a problem cannot be solved."""


def expression_reward(
    text: str,
    numbers: Sequence[int],
    target: int,
    operators: str,
    format_reward: float,
    answer_only: bool = False,
    use_all: bool = True,
    may_be_unsolvable: bool = False,
) -> Reward:
    """1 for an expression that equals `target` and uses each of `numbers` exactly once.

    If not `use_all`, each of them may be used at most once. If a problem `may_be_unsolvable`, the
    answer "no solution" earns 1 if the solver proves it, else `format_reward`.

    `format_reward` for any other expression, whatever its numbers, and 0 for everything else. With
    `answer_only` the whole text is the answer, perhaps with `= TARGET` after the expression.
    Parts: `answer` (1 if it is right) and `format` (1 if it is an expression).

    >>> expression_reward("</think><answer>12*(5-3)</answer>", [3, 5, 12], 24, "+-*/", 0.1).value
    1.0
    >>> expression_reward("</think><answer>12+12</answer>", [3, 5, 12], 24, "+-*/", 0.1).value
    0.1
    >>> expression_reward("3 * 8 = 24.", [3, 8], 24, "+-*/", 0.1, answer_only=True).value
    1.0
    """
    answer = _whole_answer(text, target) if answer_only else extract_answer(text)
    if may_be_unsolvable and answer is not None and answer.strip(SPACES).lower() == NO_SOLUTION:
        is_right = not is_solvable(numbers, target, operators, use_all)
        return answer_reward(is_right, True, format_reward)

    evaluated = None if answer is None else evaluate_expression(answer, operators)
    if evaluated is None:
        return answer_reward(False, False, format_reward)

    value, used = evaluated
    unused = Counter(numbers)
    unused.subtract(used)
    is_legal = not any(unused.values()) if use_all else min(unused.values()) >= 0
    is_right = value == target and is_legal
    return answer_reward(is_right, True, format_reward)


def _whole_answer(text: str, target: int) -> str:
    """The expression in a text that is nothing else, without `= target` and a full stop."""
    text = text.strip(SPACES).removesuffix(".")
    expression, equals, value = text.rpartition("=")
    is_repeated = bool(equals) and value.strip(SPACES) == str(target)
    return expression if is_repeated else text
