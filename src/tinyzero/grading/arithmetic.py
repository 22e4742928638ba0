"""Judging what a model wrote: find the answer, compute it exactly, compare.

A completion is never run. An expression is read by the small parser below, over fractions, and everything
is bounded (length, digits, depth), so no text can make a reward raise or take long.
"""

from __future__ import annotations

from fractions import Fraction

from tinyzero.grading.answers import SPACES, extract_answer
from tinyzero.types import Reward

MAX_EXPRESSION = 200  # characters


MAX_DEPTH = 32  # brackets and unary minuses within each other


MAX_DIGITS = 19  # of one number: any int64


DIGITS = "0123456789"  # str.isdigit also takes the digits of other scripts


def evaluate_expression(text: str, operators: str = "+-*/") -> tuple[Fraction, list[int]] | None:
    """The exact value of an arithmetic expression and the numbers written in it, in order; never raises.

    Accepted: integers in ASCII digits without leading zeros, brackets, the binary `operators`, a unary minus where
    "-" is among them, and spaces, tabs and newlines between these. None for anything else: `**`, `//`, `1_0`, `.5`,
    `+1`, `07`, a division by zero, or what exceeds the bounds above.
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
    """1 for the integer `expected`, `format_reward` for another integer, else 0.

    An integer is ASCII digits without leading zeros or separators, with a minus before it if negative.
    Parts: `answer` (is it right) and `format` (is it an integer).
    """
    number = _integer(extract_answer(text) or "")
    return answer_reward(number == expected, number is not None, format_reward)


def answer_reward(right: bool, well_formed: bool, format_reward: float) -> Reward:
    """1 for a right answer, `format_reward` for another `well_formed` one, else 0.

    Parts: `answer` (is it right) and `format` (is it well-formed).
    """
    value = 1.0 if right else format_reward if well_formed else 0.0
    return Reward(value, {"answer": float(right), "format": float(well_formed)}, right)


def _integer(text: str) -> int | None:
    natural = _natural(text.removeprefix("-"))
    return -natural if natural is not None and text.startswith("-") else natural


class _Malformed(Exception):
    pass


class _Parser:
    """Recursive descent over tokens, where each is a symbol or a run of ASCII digits.

    sum = product {+- product};  product = factor {*/ factor};  factor = "-" factor | "(" sum ")" | integer
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]  # the next one is the last
        self.literals: list[int] = []

    def take(self, *wanted: str) -> str:
        """Consume and return the next token if it is one of `wanted`, else return ""."""
        return self.tokens.pop() if self.tokens and self.tokens[-1] in wanted else ""

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while operator := self.take("+", "-"):
            term = self.product(depth)
            value = value + term if operator == "+" else value - term
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while operator := self.take("*", "/"):
            factor = self.factor(depth)
            value = value * factor if operator == "*" else value / factor
        return value

    def factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _Malformed
        if self.take("-"):
            return -self.factor(depth + 1)
        if self.take("("):
            value = self.sum(depth + 1)
            if not self.take(")"):
                raise _Malformed
            return value
        return Fraction(self.integer())

    def integer(self) -> int:
        number = _natural(self.tokens.pop()) if self.tokens else None
        if number is None:
            raise _Malformed
        self.literals.append(number)
        return number


def _natural(digits: str) -> int | None:
    """The number that a plain run of ASCII digits writes; None for anything else, "07" and "" included."""
    if (
        not 0 < len(digits) <= MAX_DIGITS
        or set(digits) - set(DIGITS)
        or (digits[0] == "0" and len(digits) > 1)
    ):
        return None
    return int(digits)
