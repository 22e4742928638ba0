"""Dividing problems between tasks by weight: exact in every step, without luck or drift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

FINEST = 1000  # the largest denominator that a weight is rounded to


class Shares:
    """Which task each index of a sequence belongs to, for tasks with these `weights` above 0.

    Each index goes to the task that is furthest behind its share (the largest remainder; the first
    of them if several are). So whenever the shares of the first n problems are whole numbers, the
    tasks have drawn exactly these numbers of problems.

    >>> shares = Shares({"easy": 2, "hard": 1})
    >>> [shares.at(index) for index in range(4)]
    [('easy', 0), ('hard', 0), ('easy', 1), ('easy', 2)]
    >>> shares.quotas(first=0, count=6)
    {'easy': 4, 'hard': 2}
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        exact = {
            name: Fraction(weight).limit_denominator(FINEST) for name, weight in weights.items()
        }
        exact = {name: max(weight, Fraction(1, FINEST)) for name, weight in exact.items()}
        common = math.lcm(*(weight.denominator for weight in exact.values()))
        whole = {name: int(weight * common) for name, weight in exact.items()}
        divisor = math.gcd(*whole.values()) or 1

        self.weights = {name: weight // divisor for name, weight in whole.items()}
        self.period = sum(self.weights.values())
        """The order of the tasks repeats after this many problems."""

        self._order: list[tuple[str, int]] = []
        self._drawn = dict.fromkeys(self.weights, 0)
        self._behind = dict.fromkeys(self.weights, 0)

    def at(self, index: int) -> tuple[str, int]:
        """The task that the problem at `index` belongs to, and its index within that task."""
        cycle, position = divmod(index, self.period)
        while len(self._order) <= position:
            self._order.append(self._next())

        name, within = self._order[position]
        return name, cycle * self.weights[name] + within

    def quotas(self, first: int, count: int) -> dict[str, int]:
        """How many of the `count` problems from index `first` on belong to each task."""
        quotas = dict.fromkeys(self.weights, 0)
        for index in range(first, first + count):
            quotas[self.at(index)[0]] += 1
        return quotas

    def _next(self) -> tuple[str, int]:
        """The next task of the first cycle, and how many problems it has drawn before."""
        for name, weight in self.weights.items():
            self._behind[name] += weight
        name = max(self._behind, key=lambda candidate: self._behind[candidate])
        self._behind[name] -= self.period

        within = self._drawn[name]
        self._drawn[name] += 1
        return name, within
