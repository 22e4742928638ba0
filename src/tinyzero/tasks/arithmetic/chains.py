"""Finding arithmetic in free text.

It reads signs and words: `12 - 3 = 9`, "5 times 9 gives us 45", "subtract 3 from 12 to get 9".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from tinyzero.tasks.arithmetic.expressions import Expression, Number, leaves, read, value

MAX_TOKENS = 60  # of one expression, which limits its depth

_NUMBER = r"(?<![a-wyz\d_.])\d{1,9}(?:\.\d{1,9})?(?![a-wyz\d_]|\.\d)"
_WORDS = {
    "plus": "+",
    "minus": "-",
    "x": "*",
    "times": "*",
    "multiplied by": "*",
    "divided by": "/",
    "over": "/",
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
}
_OPERATOR = rf"(?:[-+/]|\*(?!\*)|{'|'.join(map(re.escape, _WORDS))})"
_OPEN, _CLOSE = r"(?:\\left|[\s(\[{-]){0,8}", r"(?:\\right|[\s)\]}]){0,8}"
_RUN = re.compile(rf"{_OPEN}{_NUMBER}(?:{_CLOSE}{_OPERATOR}{_OPEN}{_NUMBER})*{_CLOSE}")
_TOKEN = re.compile(rf"(?P<number>{_NUMBER})|{_OPERATOR}|[()\[\]{{}}]")
_BRACKETS = str.maketrans("[]{}", "()()")

_OPERAND = rf"(?:{_NUMBER}|(?:it|this|that|the (?:result|sum|difference|product|quotient))\b)"
_VERB = re.compile(
    rf"\b(?P<verb>add|subtract|multipl|divid|tak)(?:e|y|s|es|ies|ed|ied|ing|ying"
    rf"|ting)?\s+(?P<a>{_OPERAND})?"
    rf"(?:\s*(?P<link>and|to|from|by|with|away from|away)\s+(?P<b>{_OPERAND}))?"
)
_VERBS = {"add": "+", "subtract": "-", "tak": "-", "multipl": "*", "divid": "/"}

_RELATION = re.compile(
    r"=+>?|≈|→|⇒|->|\\(?:approx|to|rightarrow|implies)"
    r"|,?\s*(?:(?:and|so|then)\s+)?(?:(?:which|that|this|it|we|i|you|the result)\s*)?(?:would\s+"
    r"|will\s+)?"
    r"(?:'s|is|equals?|is equal to|gives?|giving|get|makes?|making|yields?|yielding|have|obtain"
    r"|results? in"
    r"|resulting in|leads? (?:us )?to|comes? (?:out )?to|becomes?|to (?:get|give|make|obtain"
    r"|reach))"
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
    """Expressions and numbers that are said to be equal, or one expression without a value.

    `parts[0]` is None if the sentence begins with the relation, as in "That gives 45". The run-on
    `12-3=9*5=45` is two chains, 12-3=9 and 9*5=45.

    >>> [chain] = chains("12 - 3 = 9", None)
    >>> chain.parts, chain.stated
    ([('-', 12, 3), 9], 9)
    """

    start: int
    end: int
    parts: list[Expression | None]

    @property
    def steps(self) -> list[tuple[Expression, Expression]]:
        """The neighbours that are said to be equal, if at least one of them has an operator."""
        steps = []
        for left, right in pairwise(self.parts):
            if left is None or right is None:
                continue
            if isinstance(left, tuple) or isinstance(right, tuple):
                steps.append((left, right))
        return steps

    @property
    def expressions(self) -> list[Expression]:
        """The parts that have an operator."""
        return [part for part in self.parts if isinstance(part, tuple)]

    @property
    def stated(self) -> Number | None:
        """The number that is stated as their value; the last one if there are several."""
        numbers = (part for part in reversed(self.parts) if isinstance(part, int | Fraction))
        return next(numbers, None)


def is_true(left: Expression, right: Expression) -> bool:
    """Whether both sides are equal.

    A number with decimals may be rounded. A result that is computed with such numbers may be off by
    a thousandth.

    >>> is_true(("/", 2, 3), Fraction("0.67")), is_true(("/", 2, 3), Fraction("0.66"))
    (True, False)
    """
    one, other = value(left), value(right)
    if one is None or other is None:
        return False

    roundings = [_rounding(number) for number in leaves(left) + leaves(right) if number % 1]
    if one == other or not roundings:
        return one == other

    computes_with_decimals = any(
        number % 1 for part in (left, right) if isinstance(part, tuple) for number in leaves(part)
    )
    slack = abs(Fraction(other)) / 1000 if computes_with_decimals else Fraction(0)
    return abs(Fraction(one) - other) <= slack + max(roundings)


def _rounding(stated: Number) -> Fraction:
    """The largest rounding error of a number: half of its last decimal."""
    return next(Fraction(1, 2 * 10**digits) for digits in range(10) if stated * 10**digits % 1 == 0)


def _flat(match: re.Match[str]) -> str:
    r"""`\frac{a}{b}` as `(a)/(b)`, padded to the same length."""
    return f"({match[1]})/({match[2]})".rjust(len(match[0]))


def fold(text: str) -> str:
    """The text in lower case with plain signs, at the same length: `×` becomes `*`, and so on.

    >>> fold("So 5 × 9 = 45")
    'so 5 * 9 = 45'
    """
    text = text.translate(_FOLD)
    return _FRACTION.sub(_flat, text) if "frac{" in text else text


def chains(sentence: str, last: Number | None) -> Iterator[Chain]:
    """Every chain of arithmetic in a folded sentence, in order.

    `last` is the latest result, which words such as "it" and "that" refer to.
    """
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
            if _has_content(parts):
                yield Chain(start, end, parts)
            begins_with_relation = (
                not end
                and gap
                and (match := _LEAD.match(gap))
                and _RELATION.fullmatch(gap, match.end())
            )
            start = 0 if begins_with_relation else left
            parts = [None, expression] if begins_with_relation else [expression]
        end = right

    if _has_content(parts):
        yield Chain(start, end, parts)


def _runs_on(left: Expression | None, right: Expression) -> bool:
    """Whether `right` continues with the value of `left` instead of being equal to it."""
    both = isinstance(left, tuple) and isinstance(right, tuple)
    return both and left is not None and value(left) == leaves(right)[0] != value(right)


def _has_content(parts: list[Expression | None]) -> bool:
    """Whether the parts are more than numbers."""
    return not all(isinstance(part, int | Fraction) for part in parts)


def _pieces(sentence: str, last: Number | None) -> Iterator[tuple[int, int, Expression]]:
    """The expressions and numbers of a sentence, in order, each with its start and end."""
    matches = sorted(
        [*_RUN.finditer(sentence), *_VERB.finditer(sentence)], key=lambda match: match.start()
    )
    end = 0
    for match in matches:
        if match.start() < end:
            continue

        expression = _in_words(match, last) if match.re is _VERB else _in_signs(match[0])
        if expression is not None:
            end = match.end()
            text = match[0]
            yield end - len(text.lstrip()), end - len(text) + len(text.rstrip()), expression


def _in_signs(run: str) -> Expression | None:
    """An expression in signs, without a bullet before it and brackets that do not belong to it."""
    tokens: list[str] = []
    for match in _TOKEN.finditer(run):
        token = _WORDS.get(match[0], match[0]).translate(_BRACKETS)
        has_sign = run[match.start() - 1 : match.start()] == "-" and (
            len(tokens) == 1 or tokens[-2:-1] in _BEFORE_SIGN
        )
        if match["number"] and tokens and has_sign:
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


def _in_words(match: re.Match[str], last: Number | None) -> Expression | None:
    """An expression in words: "add 3 to 5", "subtract that from 12", "divide by 4"."""
    operator = _VERBS[match["verb"]]
    link = match["link"]
    a = _operand(match["a"], last)
    b = _operand(match["b"], last)

    if operator in "*/" or b is not None:
        left, right = (last if a is None else a), b
    else:
        left, right = last, a
    if left is None or right is None or (match["verb"] == "tak" and not link):
        return None

    is_turned = operator == "-" and b is not None  # "subtract 3 from 12" is 12 - 3
    return (operator, right, left) if is_turned else (operator, left, right)


def _operand(word: str | None, last: Number | None) -> Number | None:
    """The number that a word stands for: itself, or the latest result."""
    if word is None:
        return None
    if not word[0].isdigit():
        return last
    return Fraction(word) if "." in word else int(word)
