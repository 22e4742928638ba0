"""How a multiplication is thought through: steps wherever they stand, and whether they break the product down."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from tinyzero.tasks.arithmetic.chains import chains, fold, is_true
from tinyzero.tasks.arithmetic.expressions import Expression, Step
from tinyzero.tasks.arithmetic.steps import STEP, is_compact
from tinyzero.tasks.arithmetic.thinking import ratios, thinking_of

_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3}){1,2}(?![\d,])")


RATIOS: dict[str, tuple[str, str]] = {
    "behaviour/arithmetic_accuracy": ("steps_right", "steps"),
    "behaviour/decomposed": ("decomposed", "posed"),
    "behaviour/decomposed_partly": ("decomposed_partly", "posed"),
}
"""Each metric as one count of `measure` over another, both summed over completions."""


def measure(a: int, b: int, text: str) -> dict[str, int]:
    """Counts of one completion that was asked for a*b. What is cut short is not looked at."""
    thinking, closed = thinking_of(text)
    compact = is_compact(text)
    truths, factors = (_compact if compact else _free)(thinking if closed else "")
    covered, pairs, parts = decomposition(a, b, factors)
    return {
        "steps": len(truths),
        "steps_right": sum(truths),
        "posed": pairs > 1,  # a digit times a digit cannot be broken down
        "decomposed": pairs > 1 and covered == pairs and parts > 1,
        "decomposed_partly": pairs > 1 and parts > 0 and covered < pairs,
    }


def summarise(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics over many completions from the counts of each. A metric with nothing to measure is left out."""
    return ratios(RATIOS, counts)


def _compact(thinking: str) -> tuple[list[bool], list[tuple[int, int]]]:
    """Whether each step is true, and what is multiplied with what."""
    steps = [Step(int(x), operator, int(y), int(z)) for x, operator, y, z in STEP.findall(thinking)]
    return [step.is_true for step in steps], [
        (step.left, step.right) for step in steps if step.operator == "*"
    ]


def _free(thinking: str) -> tuple[list[bool], list[tuple[int, int]]]:
    """The same of free text: `37 * 48 = 37 * 40 + 37 * 8 = 1,480 + 296`."""
    plain = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), fold(thinking))
    found = [chain for line in plain.split("\n") for chain in chains(line, None)]
    truths = [is_true(*step) for chain in found for step in chain.steps]
    return truths, [pair for chain in found for part in chain.parts for pair in _factors(part)]


def _factors(expression: Expression | None) -> Iterator[tuple[int, int]]:
    """The pairs of whole numbers that an expression multiplies."""
    if isinstance(expression, tuple):
        operator, left, right = expression
        if operator == "*" and isinstance(left, int) and isinstance(right, int):
            yield left, right
        yield from (*_factors(left), *_factors(right))


def decomposition(a: int, b: int, factors: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """How a*b is broken down by the distributive rule into products of two numbers: (covered, pairs, parts).

    `pairs` are those of a digit of a and a digit of b, zeros left out; `covered` those that a stated product stands
    for, whatever its place: 40*3, 4*30 and 4*3 all stand for 4 and 3, and 47*3 for two pairs of 47*36, but 47*36
    for none. `parts` are the products that cover what none before did. Results are not looked at.
    """
    whole = Counter(product(_digits(a), _digits(b)))
    waiting, parts = Counter(whole), 0
    for one, other in factors:
        for left, right in ((one, other), (other, one)):
            meant = Counter(product(_digits(left), _digits(right)))
            if meant and meant <= waiting and (meant != whole or whole.total() == 1):
                waiting -= meant
                parts += 1
                break
    return whole.total() - waiting.total(), whole.total(), parts


def _digits(number: int) -> str:
    """The digits that are not 0."""
    return str(abs(number)).replace("0", "")
