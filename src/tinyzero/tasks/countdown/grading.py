"""What an answer to Countdown earns."""

from __future__ import annotations

from collections.abc import Sequence

from tinyzero.grading import answer_reward, evaluate_expression, extract_answer
from tinyzero.types import Reward


def expression_reward(
    text: str, numbers: Sequence[int], target: int, operators: str, format_reward: float
) -> Reward:
    """1 for an expression worth `target` that uses each of `numbers` exactly once.

    `format_reward` for another expression (whatever its numbers), else 0. Parts: `answer` (is it right)
    and `format` (is it an expression).
    """
    answer = extract_answer(text)
    result = None if answer is None else evaluate_expression(answer, operators)
    right = result is not None and result[0] == target and sorted(result[1]) == sorted(numbers)
    return answer_reward(right, result is not None, format_reward)
