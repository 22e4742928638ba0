"""The thinking of a completion, and metrics from counts over many completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

MAX_CHARACTERS = 100_000  # of a completion; the rest is not read

Ratios = Mapping[str, tuple[str, str]]
"""Metrics by key. Each is a pair of counts: the first is divided by the second."""


def thinking_of(text: str) -> tuple[str, bool]:
    """The text before the last `</think>`, and whether there is a `</think>`.

    Without one it is the whole text, which may be cut short.

    >>> thinking_of("3+4=7</think><answer>7</answer>")
    ('3+4=7', True)
    >>> thinking_of("3+4=")
    ('3+4=', False)
    """
    thinking, closed, _ = text[:MAX_CHARACTERS].rpartition("</think>")
    return (thinking, True) if closed else (text[:MAX_CHARACTERS], False)


def ratios(wanted: Ratios, counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics `wanted`, from the counts of many completions.

    Both counts are summed over the completions before they are divided. A metric whose second count
    is 0 is left out.

    >>> ratios({"accuracy": ("right", "all")}, [{"right": 1, "all": 2}, {"right": 0, "all": 2}])
    {'accuracy': 0.25}
    """
    totals: dict[str, float] = defaultdict(float)
    for completion in counts:
        for name, number in completion.items():
            totals[name] += number

    return {
        metric: totals[numerator] / totals[denominator]
        for metric, (numerator, denominator) in wanted.items()
        if totals[denominator]
    }
