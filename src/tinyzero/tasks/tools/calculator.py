"""A calculator: whenever the model writes `=` after an expression, the exact value follows.

It knows whole numbers, + - * / and brackets. A value that is not whole is written as a fraction,
such as 7/2. After anything else, such as `x=`, it writes nothing and the model continues itself.
"""

from __future__ import annotations

import re

from tinyzero.grading import MAX_DIGITS, MAX_EXPRESSION, evaluate_expression
from tinyzero.tasks.tools.base import Tool

EXPRESSION = re.compile(r"(?<![\w.])[0-9+\-*/() ]+=\Z")


class Calculator(Tool):
    """Writes the exact value after `=`."""

    stop = ("=",)

    def answer(self, text: str) -> str:
        """The value of the expression before the last `=`, or nothing if that is not an expression.

        >>> Calculator().answer("40*6=240,7*6=")
        '42'
        >>> Calculator().answer("(1+6)/2="), Calculator().answer("x=")
        ('7/2', '')
        """
        match = EXPRESSION.search(text[-MAX_EXPRESSION - 2 :])  # longer ones are rejected
        evaluated = evaluate_expression(match[0].rstrip("=")) if match else None
        if evaluated is None:
            return ""

        value, numbers = evaluated
        is_result = len(numbers) == 1  # as in 3+4=7=
        written = str(value)
        return "" if is_result or len(written) > 2 * MAX_DIGITS else written


TOOL = Calculator
