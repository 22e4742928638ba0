"""How a completion multiplies: its steps, and whether they break the product down."""

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
"""Each metric is one count of `measure` divided by another, both summed over completions."""


def measure(a: int, b: int, text: str) -> dict[str, int]:
    """Counts that describe one completion of the problem a*b.

    A thinking that was cut short counts as empty.
    """
    thinking, closed = thinking_of(text)
    read = _read_compact if is_compact(text) else _read_free
    truths, factors = read(thinking if closed else "")

    covered, pairs, parts = decomposition(a, b, factors)
    return {
        "steps": len(truths),
        "steps_right": sum(truths),
        "posed": pairs > 1,  # the product of two single digits cannot be broken down
        "decomposed": pairs > 1 and covered == pairs and parts > 1,
        "decomposed_partly": pairs > 1 and parts > 0 and covered < pairs,
    }


def summarise(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics over many completions, from the counts of each of them.

    A metric without anything to measure is left out.
    """
    return ratios(RATIOS, counts)


def _read_compact(thinking: str) -> tuple[list[bool], list[tuple[int, int]]]:
    """Whether each step is true, and the pairs of numbers that are multiplied."""
    steps = [
        Step(int(left), operator, int(right), int(result))
        for left, operator, right, result in STEP.findall(thinking)
    ]
    truths = [step.is_true for step in steps]
    factors = [(step.left, step.right) for step in steps if step.operator == "*"]
    return truths, factors


def _read_free(thinking: str) -> tuple[list[bool], list[tuple[int, int]]]:
    """The same for free text, such as `37 * 48 = 37 * 40 + 37 * 8 = 1,480 + 296`."""
    plain = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), fold(thinking))
    truths: list[bool] = []
    factors: list[tuple[int, int]] = []
    for line in plain.split("\n"):
        for chain in chains(line, None):
            truths += [is_true(*step) for step in chain.steps]
            for part in chain.parts:
                factors += _factors(part)
    return truths, factors


def _factors(expression: Expression | None) -> Iterator[tuple[int, int]]:
    """The pairs of whole numbers that an expression multiplies."""
    if isinstance(expression, tuple):
        operator, left, right = expression
        if operator == "*" and isinstance(left, int) and isinstance(right, int):
            yield left, right
        yield from _factors(left)
        yield from _factors(right)


def decomposition(a: int, b: int, factors: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """How far the products in `factors` break a*b down, as three counts: (covered, pairs, parts).

    `pairs` counts the pairs of a digit of a and a digit of b, without zeros. `covered` counts those
    that some product in `factors` multiplies, whatever its power of ten: 40*3, 4*30 and 4*3 cover
    the pair 4 and 3. In 47*36, the product 47*3 covers two pairs, and 47*36 itself covers none.
    `parts` counts the products that cover new pairs. Results are ignored.

    >>> decomposition(47, 36, [(40, 36), (7, 36)])
    (4, 4, 2)
    """
    all_pairs = Counter(product(_digits(a), _digits(b)))
    uncovered = Counter(all_pairs)
    parts = 0
    for one, other in factors:
        for left, right in ((one, other), (other, one)):
            pairs = Counter(product(_digits(left), _digits(right)))
            is_smaller = pairs != all_pairs or all_pairs.total() == 1
            if pairs and pairs <= uncovered and is_smaller:
                uncovered -= pairs
                parts += 1
                break

    covered = all_pairs.total() - uncovered.total()
    return covered, all_pairs.total(), parts


def _digits(number: int) -> str:
    """The digits of a number that are not 0."""
    return str(abs(number)).replace("0", "")
