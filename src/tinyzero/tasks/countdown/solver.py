"""What can be reached from some numbers, each used exactly once with + - * /: exactly, over fractions.

Numbers and targets are positive integers here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, product
from typing import NamedTuple

Value = int | Fraction  # equal ones hash alike, and integers are several times faster
Numbers = tuple[int, ...]  # always sorted, so that caches hit


def solve(numbers: Sequence[int], target: int, operators: str = "+-*/") -> str | None:
    """An expression worth `target` that uses each of `numbers` once, or None where there is none."""
    for value, text in _reached(tuple(sorted(numbers)), operators, whole=False):
        if value == target:
            return text.removeprefix("(").removesuffix(")")
    return None


def plus_minus_suffices(numbers: Sequence[int], target: int) -> bool:
    """Whether + and - alone reach `target`."""
    sums = {0}
    for number in numbers:
        sums = {total + sign * number for total in sums for sign in (1, -1)}
    return target in sums


def integers_suffice(numbers: Sequence[int], target: int) -> bool:
    """Whether `target` can be reached with every intermediate result a non-negative integer."""
    return any(value == target for value, _ in _reached(tuple(sorted(numbers)), "+-*/", whole=True))


def solutions(numbers: Sequence[int], target: int) -> set[str]:
    """The distinct expressions worth `target`, one text for each.

    Expressions that differ only in the order of terms and factors, in needless brackets or in where a sign is put
    (7-(2-5), 7+(5-2), 7+5-2) are one; equal numbers are interchangeable, and a term worth 0 is the same added or
    subtracted. 6*1 and 6/1 are two. Of n unlike numbers there are 1, 6, 68, 1170, 27142 expressions by this count
    (OEIS A140606), where one and its opposite are two, of which at most one hits.
    """
    return {form.text for form in _forms(tuple(sorted(numbers))) if form.value == target}


def analyse(numbers: Sequence[int], target: int) -> dict[str, int | bool]:
    """What a study wants to know of a problem: `count` of numbers, whether `plus_minus` suffice, whether
    `integers` do (see `integers_suffice`), and how many distinct `solutions` there are."""
    return {
        "count": len(numbers),
        "plus_minus": plus_minus_suffices(numbers, target),
        "integers": integers_suffice(numbers, target),
        "solutions": len(solutions(numbers, target)),
    }


def _reached(numbers: Numbers, operators: str, whole: bool) -> Iterator[tuple[Value, str]]:
    """Every value of `numbers`, several times, with an expression; `whole` forbids negatives and fractions."""
    if len(numbers) == 1:
        yield numbers[0], str(numbers[0])
    for left, right in _halves(numbers):
        xs, ys = _values(left, operators, whole), _values(right, operators, whole)
        for x, y in product(xs, ys):
            for value, text in _combine(x, xs[x], y, ys[y], operators):
                if not whole or (value >= 0 and value.denominator == 1):
                    yield value, text


@lru_cache(maxsize=256)
def _values(numbers: Numbers, operators: str, whole: bool) -> dict[Value, str]:
    return dict(_reached(numbers, operators, whole))


def _combine(x: Value, a: str, y: Value, b: str, operators: str) -> Iterator[tuple[Value, str]]:
    """What one operator makes of `x`, written `a`, and `y`, written `b`, in either order."""
    if "+" in operators:
        yield x + y, f"({a}+{b})"
    if "-" in operators:
        yield x - y, f"({a}-{b})"
        yield y - x, f"({b}-{a})"
    if "*" in operators:
        yield x * y, f"({a}*{b})"
    if "/" in operators and y:
        yield _quotient(x, y), f"({a}/{b})"
    if "/" in operators and x:
        yield _quotient(y, x), f"({b}/{a})"


def _quotient(x: Value, y: Value) -> Value:
    return Fraction(x) / y if x % y else x // y


def _halves(numbers: Numbers) -> dict[tuple[Numbers, Numbers], None]:
    """The ways to deal `numbers` into two hands, even ones first: those have the fewest values to build."""
    places = range(len(numbers))
    deals: dict[tuple[Numbers, Numbers], None] = {}
    for size in range(len(numbers) // 2, 0, -1):
        for chosen in combinations(places, size):
            left = tuple(numbers[i] for i in chosen)
            right = tuple(numbers[i] for i in places if i not in chosen)
            deals[min((left, right), (right, left))] = None
    return deals


class _Form(NamedTuple):
    """An expression in normal form: sums and products flattened, signs moved so that no part is negative."""

    value: Value
    text: str
    kind: str  # "+" a sum, "*" a product, "" a number


def _forms(numbers: Numbers) -> Iterator[_Form]:
    """Every form of `numbers`; with equal numbers some come several times."""
    if len(numbers) == 1:
        yield _Form(numbers[0], str(numbers[0]), "")
    for hands in _deals(numbers):
        if len(hands) > 1:
            for terms in product(*(_known_forms(hand, but="+") for hand in hands)):
                yield from _sums(terms)
            for factors in product(*(_known_forms(hand, but="*") for hand in hands)):
                yield from _products(factors)


@lru_cache(maxsize=256)
def _known_forms(numbers: Numbers, but: str) -> list[_Form]:
    """The forms of `numbers` that are not of kind `but`: a term is no sum, a factor no product."""
    return list(dict.fromkeys(form for form in _forms(numbers) if form.kind != but))


def _sums(terms: Sequence[_Form]) -> Iterator[_Form]:
    """Every way to add and subtract `terms`; of a sum and its opposite, the one that is not negative."""
    first, *rest = sorted(terms, reverse=True)
    for signs in product((1, -1), repeat=len(rest)):
        signed = [(1, first), *zip(signs, rest, strict=True)]
        total: Value = sum(sign * term.value for sign, term in signed)
        turns = (1,) if total > 0 else (-1,) if total < 0 else (1, -1)
        yield _Form(total * turns[0], min(_sum_text(signed, turn) for turn in turns), "+")


def _sum_text(signed: Sequence[tuple[int, _Form]], turn: int) -> str:
    added = [term.text for sign, term in signed if sign * turn > 0 or not term.value]
    taken = [term.text for sign, term in signed if sign * turn < 0 and term.value]
    return "-".join(["+".join(added), *taken])


def _products(factors: Sequence[_Form]) -> Iterator[_Form]:
    """Every way to multiply and divide by `factors`; at least one is multiplied."""
    ordered = sorted(factors, reverse=True)
    for below in product((False, True), repeat=len(ordered)):
        above = [factor for factor, under in zip(ordered, below, strict=True) if not under]
        divisors = [factor for factor, under in zip(ordered, below, strict=True) if under]
        if above and all(factor.value for factor in divisors):
            text = "/".join(["*".join(map(_factor_text, above)), *map(_factor_text, divisors)])
            yield _Form(_quotient(_product(above), _product(divisors)), text, "*")


def _product(forms: Sequence[_Form]) -> Value:
    value: Value = 1
    for form in forms:
        value *= form.value
    return value


def _factor_text(form: _Form) -> str:
    return f"({form.text})" if form.kind == "+" else form.text


def _deals(numbers: Sequence[int]) -> Iterator[list[Numbers]]:
    """Every way to deal `numbers` into any number of hands."""
    if not numbers:
        yield []
        return
    for hands in _deals(numbers[1:]):
        yield [(numbers[0],), *hands]
        for i, hand in enumerate(hands):
            yield [*hands[:i], (numbers[0], *hand), *hands[i + 1 :]]
