"""The thinking of a completion, and metrics made of counts over many of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

MAX_CHARACTERS = 100_000  # of a completion; what follows is not read

Ratios = Mapping[str, tuple[str, str]]
"""Metrics by key: each is one count over another."""


def thinking_of(text: str) -> tuple[str, bool]:
    """What stands before the last `</think>`, and whether there is one: else all of it, perhaps cut short."""
    thinking, closed, _ = text[:MAX_CHARACTERS].rpartition("</think>")
    return (thinking, True) if closed else (text[:MAX_CHARACTERS], False)


def ratios(wanted: Ratios, counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics `wanted` from the counts of many completions; one with nothing to measure is left out.

    Example: `ratios({"accuracy": ("right", "all")}, [{"right": 1, "all": 2}, {"right": 0, "all": 2}])`
    is `{"accuracy": 0.25}`: both counts are summed before they are divided.
    """
    totals: dict[str, float] = defaultdict(float)
    for one in counts:
        for name, number in one.items():
            totals[name] += number
    return {
        name: totals[above] / totals[below]
        for name, (above, below) in wanted.items()
        if totals[below]
    }
