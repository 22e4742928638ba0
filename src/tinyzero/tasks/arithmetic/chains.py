"""Arithmetic as it stands in free text: `12 - 3 = 9`, "5 times 9 gives us 45", "subtract 3 from 12 to get 9"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from tinyzero.tasks.arithmetic.expressions import Expression, Number, leaves, read, value

MAX_TOKENS = 60  # of one expression; bounds how deep it is

_NUMBER = r"(?<![a-wyz\d_.])\d{1,9}(?:\.\d{1,9})?(?![a-wyz\d_]|\.\d)"
_WORDS = {
    **{
        "plus": "+",
        "minus": "-",
        "x": "*",
        "times": "*",
        "multiplied by": "*",
        "divided by": "/",
        "over": "/",
    },
    **{r"\times": "*", r"\cdot": "*", r"\div": "/"},
}
_OPERATOR = rf"(?:[-+/]|\*(?!\*)|{'|'.join(map(re.escape, _WORDS))})"
_OPEN, _CLOSE = r"(?:\\left|[\s(\[{-]){0,8}", r"(?:\\right|[\s)\]}]){0,8}"
_RUN = re.compile(rf"{_OPEN}{_NUMBER}(?:{_CLOSE}{_OPERATOR}{_OPEN}{_NUMBER})*{_CLOSE}")
_TOKEN = re.compile(rf"(?P<number>{_NUMBER})|{_OPERATOR}|[()\[\]{{}}]")
_BRACKETS = str.maketrans("[]{}", "()()")

_OPERAND = rf"(?:{_NUMBER}|(?:it|this|that|the (?:result|sum|difference|product|quotient))\b)"
_VERB = re.compile(
    rf"\b(?P<verb>add|subtract|multipl|divid|tak)(?:e|y|s|es|ies|ed|ied|ing|ying|ting)?\s+(?P<a>{_OPERAND})?"
    rf"(?:\s*(?P<link>and|to|from|by|with|away from|away)\s+(?P<b>{_OPERAND}))?"
)
_VERBS = {"add": "+", "subtract": "-", "tak": "-", "multipl": "*", "divid": "/"}

_RELATION = re.compile(
    r"=+>?|≈|→|⇒|->|\\(?:approx|to|rightarrow|implies)"
    r"|,?\s*(?:(?:and|so|then)\s+)?(?:(?:which|that|this|it|we|i|you|the result)\s*)?(?:would\s+|will\s+)?"
    r"(?:'s|is|equals?|is equal to|gives?|giving|get|makes?|making|yields?|yielding|have|obtain|results? in"
    r"|resulting in|leads? (?:us )?to|comes? (?:out )?to|becomes?|to (?:get|give|make|obtain|reach))"
    r"(?:\s+(?:us|me|exactly|just|only|about|approximately|roughly|the number))*"
)
_LEAD = re.compile(r"(?:(?:so|and|then|now|well|yes)\b[,\s]*)?")
_MARKUP = " \t*$\\()[]{}`"
_BEFORE_SIGN = (["("], ["+"], ["-"], ["*"], ["/"])

_FOLD = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ×✕⋅·∗÷∕−–‒＋＝（），。；！？’",
    "abcdefghijklmnopqrstuvwxyz*****//---+=(),\n;!?'",
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}")


class Chain(NamedTuple):
    """Expressions and numbers that are said to be equal; or a single expression, proposed.

    `parts[0]` is None where the sentence begins with the relation: "That gives 45". Where `12-3=9*5=45` runs on, it
    is two chains, 12-3=9 and 9*5=45.
    """

    start: int
    end: int
    parts: list[Expression | None]

    @property
    def steps(self) -> list[tuple[Expression, Expression]]:
        """The neighbours of which one has an operator."""
        pairs = [
            (left, right)
            for left, right in pairwise(self.parts)
            if left is not None and right is not None
        ]
        return [pair for pair in pairs if isinstance(pair[0], tuple) or isinstance(pair[1], tuple)]

    @property
    def expressions(self) -> list[Expression]:
        """The parts that have an operator."""
        return [part for part in self.parts if isinstance(part, tuple)]

    @property
    def stated(self) -> Number | None:
        """The number said to be their value, the last one if there are several."""
        return next(
            (part for part in reversed(self.parts) if isinstance(part, int | Fraction)), None
        )


def is_true(left: Expression, right: Expression) -> bool:
    """Whether both are equal. A number with decimals need only be the other one rounded, and what is computed with
    such numbers need only be right to a thousandth."""
    one, other = value(left), value(right)
    if one is None or other is None:
        return False
    rounded = [_rounding(number) for number in leaves(left) + leaves(right) if number % 1]
    if one == other or not rounded:
        return one == other
    computed = any(
        number % 1 for part in (left, right) if isinstance(part, tuple) for number in leaves(part)
    )
    slack = abs(Fraction(other)) / 1000 if computed else Fraction(0)
    return abs(Fraction(one) - other) <= slack + max(rounded)


def _rounding(stated: Number) -> Fraction:
    """Half of the last decimal of a number."""
    return next(Fraction(1, 2 * 10**digits) for digits in range(10) if stated * 10**digits % 1 == 0)


def _flat(match: re.Match[str]) -> str:
    r"""`\frac{a}{b}` as `(a)/(b)`, at the same length."""
    return f"({match[1]})/({match[2]})".rjust(len(match[0]))


def fold(text: str) -> str:
    """The text in lower case and plain signs, each character in its place: `×` is `*`, and so on."""
    text = text.translate(_FOLD)
    return _FRACTION.sub(_flat, text) if "frac{" in text else text


def chains(sentence: str, last: Number | None) -> Iterator[Chain]:
    """Every chain of a folded sentence; `last` is the result that "it" and "that" stand for."""
    parts: list[Expression | None] = []
    start = end = 0
    for left, right, expression in _pieces(sentence, last):
        gap = sentence[end:left].strip(_MARKUP)
        if parts and gap and _RELATION.fullmatch(gap):
            if _runs_on(parts[-1], expression):
                yield Chain(start, end, [*parts, leaves(expression)[0]])
                start, parts = left, []
            parts.append(expression)
        else:
            if _says_something(parts):
                yield Chain(start, end, parts)
            leads = (
                not end
                and gap
                and (match := _LEAD.match(gap))
                and _RELATION.fullmatch(gap, match.end())
            )
            start = 0 if leads else left
            parts = [*([None] if leads else []), expression]
        end = right
    if _says_something(parts):
        yield Chain(start, end, parts)


def _runs_on(left: Expression | None, right: Expression) -> bool:
    """Whether `right` goes on with the value of `left` instead of being equal to it."""
    both = isinstance(left, tuple) and isinstance(right, tuple)
    return both and left is not None and value(left) == leaves(right)[0] != value(right)


def _says_something(parts: list[Expression | None]) -> bool:
    return not all(isinstance(part, int | Fraction) for part in parts)


def _pieces(sentence: str, last: Number | None) -> Iterator[tuple[int, int, Expression]]:
    """Where an expression or a number stands, and which, in order."""
    matches = sorted(
        [*_RUN.finditer(sentence), *_VERB.finditer(sentence)], key=lambda match: match.start()
    )
    end = 0
    for match in matches:
        if match.start() < end:
            continue
        expression = _told(match, last) if match.re is _VERB else _written(match[0])
        if expression is not None:
            end = match.end()
            text = match[0]
            yield end - len(text.lstrip()), end - len(text) + len(text.rstrip()), expression


def _written(run: str) -> Expression | None:
    """An expression in signs. Brackets that are not of it, and a bullet before it, are left out."""
    tokens: list[str] = []
    for match in _TOKEN.finditer(run):
        token = _WORDS.get(match[0], match[0]).translate(_BRACKETS)
        signed = run[match.start() - 1 : match.start()] == "-" and (
            len(tokens) == 1 or tokens[-2:-1] in _BEFORE_SIGN
        )
        if match["number"] and tokens and signed:
            token = tokens.pop() + token
        tokens.append(token)
    if len(tokens) > MAX_TOKENS:
        return None
    while tokens and tokens[0] in "+-*/)":
        del tokens[0]
    while tokens and tokens[0] == "(" and tokens.count("(") > tokens.count(")"):
        del tokens[0]
    while tokens and tokens[-1] == ")" and tokens.count(")") > tokens.count("("):
        del tokens[-1]
    return read(tokens)


def _told(match: re.Match[str], last: Number | None) -> Expression | None:
    """An expression in words: "add 3 to 5", "subtract that from 12", "divide by 4"."""
    operator, link = _VERBS[match["verb"]], match["link"]
    a, b = (_operand(match[name], last) for name in "ab")
    if operator in "*/" or b is not None:
        left, right = (last if a is None else a), b
    else:
        left, right = last, a
    if left is None or right is None or (match["verb"] == "tak" and not link):
        return None
    return (operator, right, left) if operator == "-" and b is not None else (operator, left, right)


def _operand(word: str | None, last: Number | None) -> Number | None:
    if word is None:
        return None
    return (Fraction(word) if "." in word else int(word)) if word[0].isdigit() else last
