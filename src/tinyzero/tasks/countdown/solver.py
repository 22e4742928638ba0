"""Solving Countdown exactly: what can be made of some numbers, each used once, with + - * /.

Numbers and targets are positive integers here; intermediate results may be fractions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, product
from typing import NamedTuple

Value = int | Fraction  # equal values hash alike, and integers are several times faster
Numbers = tuple[int, ...]  # always sorted, so that the caches hit


def solve(
    numbers: Sequence[int], target: int, operators: str = "+-*/", use_all: bool = True
) -> str | None:
    """An expression for `target` that uses each of `numbers` once, or None if it does not exist.

    If not `use_all`, some of the numbers may be left over.

    >>> solve([3, 5, 12], 24)
    '(5-3)*12'
    >>> solve([1, 1], 24) is None
    True
    """
    ordered = tuple(sorted(numbers))
    for chosen in [ordered] if use_all else _choices(ordered):
        for value, text in _reachable(chosen, operators, whole=False):
            if value == target:
                return text.removeprefix("(").removesuffix(")")
    return None


def is_solvable(
    numbers: Sequence[int], target: int, operators: str = "+-*/", use_all: bool = True
) -> bool:
    """Whether `target` can be made of `numbers`, each used once, or at most once if not `use_all`.

    It is as exact as `solve`, and faster if there is no solution: it looks for the value that one
    part of the numbers would have to have, instead of trying all pairs of values. A proof that
    there is no solution takes about 2 ms for 4 numbers, 0.05 s for 5, and 1.5 s for 6.

    >>> is_solvable([3, 5, 12], 24), is_solvable([1, 1], 24)
    (True, False)
    >>> is_solvable([3, 8, 50], 24), is_solvable([3, 8, 50], 24, use_all=False)
    (False, True)
    """
    return _is_solvable(tuple(sorted(numbers)), target, operators, use_all)


@lru_cache(maxsize=4096)
def _is_solvable(numbers: Numbers, target: int, operators: str, use_all: bool) -> bool:
    choices = [numbers] if use_all else _choices(numbers)
    return any(_can_be(chosen, target, operators) for chosen in choices)


def _choices(numbers: Numbers) -> list[Numbers]:
    """Every choice of at least one of the sorted `numbers`; the largest choices come first."""
    sizes = range(len(numbers), 0, -1)
    chosen = (choice for size in sizes for choice in combinations(numbers, size))
    return list(dict.fromkeys(chosen))


def _can_be(numbers: Numbers, target: int, operators: str) -> bool:
    """Whether `numbers`, all of them, can make `target`."""
    if len(numbers) == 1:
        return numbers[0] == target
    return any(
        any(_partners(x, target, operators) & right_values.keys() for x in left_values)
        for left_values, right_values in (
            (_values(left, operators, False), _values(right, operators, False))
            for left, right in _by_size(numbers)
        )
    )


def _by_size(numbers: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """The ways to divide `numbers` into two parts, with the smaller one first."""
    for left, right in _halves(numbers):
        yield (left, right) if len(left) <= len(right) else (right, left)


def _partners(x: Value, target: int, operators: str) -> set[Value]:
    """The values that one operator joins with `x` to make `target`, in either order.

    A `target` above 0 is assumed, and division by zero is left out.

    >>> sorted(_partners(3, 12, "+-*/"))
    [-9, Fraction(1, 4), 4, 9, 15, 36]
    """
    partners: set[Value] = set()
    if "+" in operators:
        partners.add(target - x)
    if "-" in operators:
        partners |= {x - target, target + x}
    if "*" in operators and x:
        partners.add(_quotient(target, x))
    if "/" in operators and x:
        partners |= {_quotient(x, target), target * x}
    return partners


def plus_minus_suffices(numbers: Sequence[int], target: int, use_all: bool = True) -> bool:
    """Whether + and - alone reach `target`; if not `use_all`, numbers may be left over.

    >>> plus_minus_suffices([3, 5, 12], 20), plus_minus_suffices([3, 5, 12], 24)
    (True, False)
    """
    totals = {0}
    for number in numbers:
        signs = (1, -1) if use_all else (1, 0, -1)
        totals = {total + sign * number for total in totals for sign in signs}
    return target in totals


def integers_suffice(numbers: Sequence[int], target: int) -> bool:
    """Whether `target` can be reached without a negative number or a fraction on the way."""
    reachable = _reachable(tuple(sorted(numbers)), "+-*/", whole=True)
    return any(value == target for value, _ in reachable)


def solutions(numbers: Sequence[int], target: int) -> set[str]:
    """The distinct expressions for `target`, each as one text.

    Expressions are the same if they differ only in the order of terms and factors, in needless
    brackets, or in where a sign is put: 7-(2-5), 7+(5-2) and 7+5-2 are one. Equal numbers can be
    exchanged, and a term worth 0 can be added or subtracted. 6*1 and 6/1 are two expressions.

    With n different numbers there are 1, 6, 68, 1170, 27142, ... expressions by this count (OEIS
    A140606), which takes an expression and its opposite for two. At most one of these equals the
    target.
    """
    return {form.text for form in _forms(tuple(sorted(numbers))) if form.value == target}


def analyse(numbers: Sequence[int], target: int) -> dict[str, int | bool]:
    """What a study of problems needs to know about one of them.

    `count` is how many numbers there are, `plus_minus` and `integers` are the results of the
    functions above, and `solutions` is the number of distinct solutions.
    """
    return {
        "count": len(numbers),
        "plus_minus": plus_minus_suffices(numbers, target),
        "integers": integers_suffice(numbers, target),
        "solutions": len(solutions(numbers, target)),
    }


def _reachable(numbers: Numbers, operators: str, whole: bool) -> Iterator[tuple[Value, str]]:
    """Every value that `numbers` can make, with its expression; a value may come several times.

    If `whole`, negative numbers and fractions are left out, on the way too.
    """
    if len(numbers) == 1:
        yield numbers[0], str(numbers[0])

    for left, right in _halves(numbers):
        left_values = _values(left, operators, whole)
        right_values = _values(right, operators, whole)
        for x, y in product(left_values, right_values):
            for value, text in _combine(x, left_values[x], y, right_values[y], operators):
                if not whole or (value >= 0 and value.denominator == 1):
                    yield value, text


@lru_cache(maxsize=256)
def _values(numbers: Numbers, operators: str, whole: bool) -> dict[Value, str]:
    """The reachable values, each with one expression."""
    return dict(_reachable(numbers, operators, whole))


def _combine(x: Value, a: str, y: Value, b: str, operators: str) -> Iterator[tuple[Value, str]]:
    """What one operator makes of `x`, written as `a`, and `y`, written as `b`, in either order."""
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
    """The ways to divide `numbers` into two parts; even ones, with fewest values, come first."""
    indices = range(len(numbers))
    pairs: dict[tuple[Numbers, Numbers], None] = {}
    for size in range(len(numbers) // 2, 0, -1):
        for chosen in combinations(indices, size):
            left = tuple(numbers[index] for index in chosen)
            right = tuple(numbers[index] for index in indices if index not in chosen)
            pairs[min((left, right), (right, left))] = None
    return pairs


class _Form(NamedTuple):
    """An expression in normal form: sums and products are flat, and no part is negative."""

    value: Value
    text: str
    kind: str  # "+" is a sum, "*" is a product, "" is a number


def _forms(numbers: Numbers) -> Iterator[_Form]:
    """Every normal form of `numbers`; if numbers are equal, some forms come several times."""
    if len(numbers) == 1:
        yield _Form(numbers[0], str(numbers[0]), "")

    for parts in _partitions(numbers):
        if len(parts) > 1:
            for terms in product(*(_forms_except("+", part) for part in parts)):
                yield from _sums(terms)
            for factors in product(*(_forms_except("*", part) for part in parts)):
                yield from _products(factors)


@lru_cache(maxsize=256)
def _forms_except(kind: str, numbers: Numbers) -> list[_Form]:
    """The forms that are not of this kind: a term is not a sum, a factor is not a product."""
    return list(dict.fromkeys(form for form in _forms(numbers) if form.kind != kind))


def _sums(terms: Sequence[_Form]) -> Iterator[_Form]:
    """Every way to add and subtract `terms`; of a sum and its opposite, only the positive one."""
    first, *rest = sorted(terms, reverse=True)
    for signs in product((1, -1), repeat=len(rest)):
        signed_terms = [(1, first), *zip(signs, rest, strict=True)]
        total: Value = sum(sign * term.value for sign, term in signed_terms)

        if total > 0:
            orientations: tuple[int, ...] = (1,)
        elif total < 0:
            orientations = (-1,)
        else:
            orientations = (1, -1)
        text = min(_sum_text(signed_terms, orientation) for orientation in orientations)
        yield _Form(total * orientations[0], text, "+")


def _sum_text(signed_terms: Sequence[tuple[int, _Form]], orientation: int) -> str:
    """A sum as text; an orientation of -1 turns all signs round."""
    added = []
    subtracted = []
    for sign, term in signed_terms:
        if sign * orientation > 0 or not term.value:
            added.append(term.text)
        else:
            subtracted.append(term.text)
    return "-".join(["+".join(added), *subtracted])


def _products(factors: Sequence[_Form]) -> Iterator[_Form]:
    """Every way to multiply and divide by `factors`; at least one of them is multiplied."""
    ordered = sorted(factors, reverse=True)
    for is_divisor in product((False, True), repeat=len(ordered)):
        pairs = list(zip(ordered, is_divisor, strict=True))
        multiplied = [factor for factor, divides in pairs if not divides]
        divisors = [factor for factor, divides in pairs if divides]
        if not multiplied or not all(factor.value for factor in divisors):
            continue

        numerator = "*".join(map(_factor_text, multiplied))
        text = "/".join([numerator, *map(_factor_text, divisors)])
        yield _Form(_quotient(_product(multiplied), _product(divisors)), text, "*")


def _product(forms: Sequence[_Form]) -> Value:
    value: Value = 1
    for form in forms:
        value *= form.value
    return value


def _factor_text(form: _Form) -> str:
    return f"({form.text})" if form.kind == "+" else form.text


def _partitions(numbers: Sequence[int]) -> Iterator[list[Numbers]]:
    """Every way to divide `numbers` into any number of parts."""
    if not numbers:
        yield []
        return

    for parts in _partitions(numbers[1:]):
        yield [(numbers[0],), *parts]
        for index, part in enumerate(parts):
            yield [*parts[:index], (numbers[0], *part), *parts[index + 1 :]]
