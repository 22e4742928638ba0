"""Expressions over numbers: reading them, their exact value, and their canonical form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

MAX_ANSWER = 100  # characters, which limits the depth of its brackets

Number = int | Fraction
Expression = Number | tuple[str, "Expression", "Expression"]
"""A number, or (operator, left, right): 2*(3+4) is ("*", 2, ("+", 3, 4))."""

_TOKEN = re.compile(r"[0-9]{1,9}|[-+*/()]")


class Step(NamedTuple):
    """A calculation as it is stated: `left operator right = result`.

    >>> Step(12, "-", 3, 9).is_true, Step(7, "/", 2, 3).is_true
    (True, False)
    """

    left: int
    operator: str
    right: int
    result: int

    @property
    def is_true(self) -> bool:
        """Whether the result is exact; 7/2=3 is not."""
        if self.operator == "/":
            return self.right != 0 and self.left == self.result * self.right
        return self.result == value((self.operator, self.left, self.right))


def canonical(expression: Expression) -> str:
    """One text for all expressions that only differ in order, in grouping, or in where a minus is.

    >>> canonical(("*", 12, ("-", 5, 3))) == canonical(("*", ("-", 5, 3), 12))
    True
    """
    negative, text = _form(expression)
    return "-" * negative + text


def _form(expression: Expression) -> tuple[bool, str]:
    """Whether a minus is before it, and the rest as text, in which no sum is below 0."""
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
    """The terms (if operators is "+-") or the factors (if "*/") of an expression.

    Each is given as whether it is subtracted (or divides), followed by its `_form`: `12-(5-3)` adds
    12, subtracts 5 and adds 3.
    """
    if isinstance(expression, tuple) and expression[0] in operators:
        operator, left, right = expression
        yield from _operands(left, operators, inverse)
        yield from _operands(right, operators, inverse ^ (operator == operators[1]))
    else:
        yield inverse, *_form(expression)


def leaves(expression: Expression) -> list[Number]:
    """The numbers of an expression, from left to right.

    >>> leaves(("*", 2, ("+", 3, 4)))
    [2, 3, 4]
    """
    if isinstance(expression, tuple):
        return leaves(expression[1]) + leaves(expression[2])
    return [expression]


def subexpressions(expression: Expression) -> list[Expression]:
    """The expressions inside an expression, without itself and its numbers.

    >>> subexpressions(("*", 2, ("+", 3, 4)))
    [('+', 3, 4)]
    """
    if not isinstance(expression, tuple):
        return []

    inner = [part for part in expression[1:] if isinstance(part, tuple)]
    deeper: list[Expression] = []
    for part in inner:
        deeper += subexpressions(part)
    return inner + deeper


def value(expression: Expression) -> Number | None:
    """The exact value, or None if something is divided by zero.

    >>> value(("/", 7, 2))
    Fraction(7, 2)
    """
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
    """The expression that a text consists of, or None for any other text.

    It may have whole numbers, brackets, + - * /, and a minus before a number or a bracket.

    >>> parse("2*(3+4)")
    ('*', 2, ('+', 3, 4))
    """
    tokens = _TOKEN.findall(text)
    if len(text) > MAX_ANSWER or "".join(tokens) != "".join(text.split()):
        return None
    return read(tokens)


def read(tokens: list[str]) -> Expression | None:
    """The expression that numbers, + - * / and brackets form, or None if they form none.

    The caller has to limit how many tokens there are, because nested brackets recurse.

    >>> read(["2", "*", "3"])
    ('*', 2, 3)
    """
    remaining = tokens[::-1]  # so that the next token is popped off the end
    try:
        expression = _sum(remaining)
    except (IndexError, ValueError):
        return None
    return None if remaining else expression


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
        raise ValueError("a bracket is not closed")
    return expression


def _negative(expression: Expression) -> Expression:
    """The negative of an expression, without a sign of its own.

    A difference is turned round. In any other operation the first operand is negated.
    """
    if not isinstance(expression, tuple):
        return -expression

    operator, left, right = expression
    if operator == "-":
        return (operator, right, left)
    return ("-" if operator == "+" else operator, _negative(left), right)
