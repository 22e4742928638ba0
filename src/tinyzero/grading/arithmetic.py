"""Computing an answer exactly, and the reward for it.

A completion is never run as code. An expression is read by the small parser below, which computes
with fractions. Its length, its digits and its depth are limited, so no text can make a reward raise
or take long.
"""

from __future__ import annotations

from fractions import Fraction

from tinyzero.grading.answers import SPACES, extract_answer
from tinyzero.types import Reward

MAX_EXPRESSION = 200  # characters
MAX_DEPTH = 32  # nested brackets and unary minuses
MAX_DIGITS = 19  # of one number, so every 64-bit integer fits

DIGITS = "0123456789"  # str.isdigit also accepts the digits of other scripts


def evaluate_expression(text: str, operators: str = "+-*/") -> tuple[Fraction, list[int]] | None:
    """The exact value of an arithmetic expression, and the numbers in it from left to right.

    An expression consists of whole numbers in ASCII digits without leading zeros, brackets, the
    binary `operators`, a unary minus if "-" is one of them, and spaces, tabs and newlines. The
    result is None for any other text (`**`, `//`, `1_0`, `.5`, `+1`, `07`), for a division by zero,
    and for a text that exceeds the limits above. This function never raises.

    >>> evaluate_expression("12*(5-3)")
    (Fraction(24, 1), [12, 5, 3])
    >>> evaluate_expression("1/3")
    (Fraction(1, 3), [1, 3])
    >>> evaluate_expression("9**9") is None
    True
    >>> evaluate_expression("4*6", operators="+-") is None
    True
    """
    symbols = "()" + operators
    if len(text) > MAX_EXPRESSION or set(text) - set(DIGITS + SPACES + symbols):
        return None

    for symbol in symbols:
        text = text.replace(symbol, f" {symbol} ")
    parser = _Parser(text.split())
    try:
        value = parser.sum(depth=0)
    except (_Malformed, ZeroDivisionError):
        return None

    return None if parser.tokens else (value, parser.literals)


def number_reward(text: str, expected: int, format_reward: float) -> Reward:
    """The reward of a completion whose answer should be the whole number `expected`.

    1 for that number, `format_reward` for any other whole number, and 0 for everything else. A
    whole number consists of ASCII digits, without leading zeros or separators, after a minus if it
    is negative. The answer is what `extract_answer` returns.

    Parts: `answer` (1 if it is right) and `format` (1 if it is a whole number).

    >>> number_reward("</think><answer>42</answer>", expected=42, format_reward=0.1).value
    1.0
    >>> number_reward("</think><answer>41</answer>", expected=42, format_reward=0.1).value
    0.1
    >>> number_reward("</think><answer>forty-two</answer>", expected=42, format_reward=0.1).value
    0.0
    """
    number = _whole_number(extract_answer(text) or "")
    return answer_reward(number == expected, number is not None, format_reward)


def answer_reward(right: bool, well_formed: bool, format_reward: float) -> Reward:
    """The reward 1 for a right answer, `format_reward` for a wrong but well-formed one, else 0.

    Parts: `answer` (1 if it is right) and `format` (1 if it is well-formed).

    >>> answer_reward(right=False, well_formed=True, format_reward=0.1)
    Reward(value=0.1, parts={'answer': 0.0, 'format': 1.0}, right=False, failure=None, turns=())
    """
    if right:
        value = 1.0
    elif well_formed:
        value = format_reward
    else:
        value = 0.0
    return Reward(value, {"answer": float(right), "format": float(well_formed)}, right)


def _whole_number(text: str) -> int | None:
    """The whole number that is written in `text`, perhaps after a minus, or None."""
    number = _natural_number(text.removeprefix("-"))
    if number is not None and text.startswith("-"):
        return -number
    return number


class _Malformed(Exception):
    """The tokens are not an expression."""


class _Parser:
    """A recursive-descent parser. Each token is a symbol or a run of ASCII digits.

    sum     = product {("+" | "-") product}
    product = factor {("*" | "/") factor}
    factor  = "-" factor | "(" sum ")" | number
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]  # reversed, so that the next token is popped off the end
        self.literals: list[int] = []

    def take(self, *wanted: str) -> str:
        """Consume and return the next token if it is one of `wanted`, else return ""."""
        return self.tokens.pop() if self.tokens and self.tokens[-1] in wanted else ""

    def sum(self, depth: int) -> Fraction:
        """The value of a sum. `depth` counts the brackets and minuses around it."""
        value = self.product(depth)
        while operator := self.take("+", "-"):
            term = self.product(depth)
            value = value + term if operator == "+" else value - term
        return value

    def product(self, depth: int) -> Fraction:
        """The value of a product. Raises ZeroDivisionError if it divides by zero."""
        value = self.factor(depth)
        while operator := self.take("*", "/"):
            factor = self.factor(depth)
            value = value * factor if operator == "*" else value / factor
        return value

    def factor(self, depth: int) -> Fraction:
        """The value of a number or of a bracket, perhaps after a minus."""
        if depth > MAX_DEPTH:
            raise _Malformed
        if self.take("-"):
            return -self.factor(depth + 1)

        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise _Malformed
            return value

        return Fraction(self.number())

    def number(self) -> int:
        """The next token as a number, which is also added to `literals`."""
        number = _natural_number(self.tokens.pop()) if self.tokens else None
        if number is None:
            raise _Malformed
        self.literals.append(number)
        return number


def _natural_number(digits: str) -> int | None:
    """The number that a run of ASCII digits stands for; None for any other text, "07" and ""."""
    if not 0 < len(digits) <= MAX_DIGITS or set(digits) - set(DIGITS):
        return None
    if digits[0] == "0" and len(digits) > 1:
        return None
    return int(digits)
