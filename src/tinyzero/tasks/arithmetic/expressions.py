"""Expressions over numbers: reading, form, exact value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

MAX_ANSWER = 100  # characters; bounds the depth of its parentheses

Number = int | Fraction
Expression = Number | tuple[str, "Expression", "Expression"]
"""A number, or (operator, left, right)."""

_TOKEN = re.compile(r"[0-9]{1,9}|[-+*/()]")


class Step(NamedTuple):
    """`left operator right = result`, as stated."""

    left: int
    operator: str
    right: int
    result: int

    @property
    def is_true(self) -> bool:
        """Whether the statement holds exactly over the rationals: 7/2=3 does not."""
        if self.operator == "/":
            return self.right != 0 and self.left == self.result * self.right
        return self.result == value((self.operator, self.left, self.right))


def canonical(expression: Expression) -> str:
    """The same text for expressions that differ only in the order and grouping of terms or of factors, or in where a
    minus stands: `12*(5-3)` and `-(3-5)*12`."""
    negative, text = _form(expression)
    return "-" * negative + text


def _form(expression: Expression) -> tuple[bool, str]:
    """Whether a minus stands before it, and the rest, in which no sum is worth less than 0."""
    if not isinstance(expression, tuple):
        return expression < 0, str(abs(expression))
    operators = "+-" if expression[0] in "+-" else "*/"
    operands = list(_operands(expression, operators, inverse=False))
    if operators == "*/":
        negative = sum(minus for _, minus, _ in operands) % 2 == 1
        parts = [operators[inverse] + text for inverse, _, text in operands]
    else:
        negative = (value(expression) or 0) < 0
        parts = [operators[inverse ^ minus ^ negative] + text for inverse, minus, text in operands]
    return negative, f"({''.join(sorted(parts))})"


def _operands(
    expression: Expression, operators: str, inverse: bool
) -> Iterator[tuple[bool, bool, str]]:
    """The terms ("+-") or factors ("*/") of an expression, each as whether it is subtracted or divided by, and its
    form: `12-(5-3)` adds 12, subtracts 5 and adds 3."""
    if isinstance(expression, tuple) and expression[0] in operators:
        operator, left, right = expression
        yield from _operands(left, operators, inverse)
        yield from _operands(right, operators, inverse ^ (operator == operators[1]))
    else:
        yield inverse, *_form(expression)


def leaves(expression: Expression) -> list[Number]:
    """Its numbers, from left to right."""
    return (
        leaves(expression[1]) + leaves(expression[2])
        if isinstance(expression, tuple)
        else [expression]
    )


def subexpressions(expression: Expression) -> list[Expression]:
    """What it is made of, itself and its numbers left out."""
    if not isinstance(expression, tuple):
        return []
    inner = [part for part in expression[1:] if isinstance(part, tuple)]
    return inner + [smaller for part in inner for smaller in subexpressions(part)]


def value(expression: Expression) -> Number | None:
    """The exact value, or None where something is divided by zero."""
    if not isinstance(expression, tuple):
        return expression
    operator, left, right = expression[0], value(expression[1]), value(expression[2])
    if left is None or right is None:
        return None
    if operator == "/":
        return Fraction(left) / right if right else None
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def parse(text: str) -> Expression | None:
    """The tree of whole numbers, + - * / (a minus before a number or a parenthesis too) and parentheses, or None for
    any other text."""
    tokens = _TOKEN.findall(text)
    if len(text) > MAX_ANSWER or "".join(tokens) != "".join(text.split()):
        return None
    return read(tokens)


def read(tokens: list[str]) -> Expression | None:
    """The tree of numbers, + - * / and parentheses in order, or None where they are no expression.

    How many there may be, and so how deep it goes, is the caller's to bound.
    """
    waiting = tokens[::-1]  # so that the next one is popped off the end
    try:
        expression = _sum(waiting)
    except (IndexError, ValueError):
        return None
    return None if waiting else expression


def _sum(tokens: list[str]) -> Expression:
    expression = _product(tokens)
    while tokens and tokens[-1] in "+-":
        expression = (tokens.pop(), expression, _product(tokens))
    return expression


def _product(tokens: list[str]) -> Expression:
    expression = _atom(tokens)
    while tokens and tokens[-1] in "*/":
        expression = (tokens.pop(), expression, _atom(tokens))
    return expression


def _atom(tokens: list[str]) -> Expression:
    token = tokens.pop()
    if token == "-":
        return _negative(_atom(tokens))
    if token != "(":
        return Fraction(token) if "." in token else int(token)
    expression = _sum(tokens)
    if tokens.pop() != ")":
        raise ValueError("a parenthesis is not closed")
    return expression


def _negative(expression: Expression) -> Expression:
    """Its negative, without a sign of its own: a difference is turned round, another operation has a first operand
    that can be negated."""
    if not isinstance(expression, tuple):
        return -expression
    operator, left, right = expression
    if operator == "-":
        return (operator, right, left)
    return ("-" if operator == "+" else operator, _negative(left), right)
