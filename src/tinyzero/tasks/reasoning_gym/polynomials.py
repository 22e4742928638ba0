"""Reading a polynomial that is written as a sum of terms, such as `3*x**2 - 4*x*y + 7`."""

from __future__ import annotations

import re
from collections import Counter

MAX_LENGTH = 4000  # characters
MAX_DIGITS = 40  # of one coefficient
MAX_POWER = 3  # digits of one exponent
POWER = rf"[a-zA-Z](?:(?:\*\*|\^)[0-9]{{1,{MAX_POWER}}})?"
NUMBER = rf"[0-9]{{1,{MAX_DIGITS}}}"
TERM = re.compile(rf"(?P<sign>[+-]?)(?P<product>(?:{NUMBER}|{POWER})(?:\*(?:{NUMBER}|{POWER}))*)")

Polynomial = dict[tuple[tuple[str, int], ...], int]
"""Coefficients by monomial: the variables in alphabetical order, each with its exponent."""


def read_polynomial(text: str) -> Polynomial | None:
    """The polynomial in `text`, or None if the text is not a sum of terms.

    Whole coefficients, `*` between factors, `**` or `^` before exponents. Brackets are not
    accepted, because multiplying out is what is asked. This function never raises.

    >>> read_polynomial("2*x**2 - x + 3*x")
    {(('x', 2),): 2, (('x', 1),): 2}
    >>> read_polynomial("(x+1)*(x-1)") is None
    True
    """
    text = "".join(text.split(" "))
    if not text or len(text) > MAX_LENGTH:
        return None

    terms: Polynomial = {}
    position = 0
    while position < len(text):
        match = TERM.match(text, position)
        if not match or (position and not match["sign"]):
            return None
        monomial, coefficient = _term(match["product"])
        sign = -1 if match["sign"] == "-" else 1
        terms[monomial] = terms.get(monomial, 0) + sign * coefficient
        position = match.end()
    return {monomial: number for monomial, number in terms.items() if number}


def _term(product: str) -> tuple[tuple[tuple[str, int], ...], int]:
    """The monomial and the coefficient of a product."""
    coefficient = 1
    powers: Counter[str] = Counter()
    for factor in product.replace("**", "^").split("*"):
        if factor[0].isdigit():
            coefficient *= int(factor)
            continue
        variable, _, exponent = factor.partition("^")
        powers[variable] += int(exponent) if exponent else 1
    return tuple(sorted((name, power) for name, power in powers.items() if power)), coefficient
