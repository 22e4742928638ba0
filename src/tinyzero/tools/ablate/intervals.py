"""95 % intervals that account for two sources of chance: the seeds, and the problems of the test.

Another seed trains another model, and another set of problems scores the same model differently. A
mean over a few seeds on a few hundred problems is uncertain for both reasons, so both widths are
computed and added as squares (Howe, 1974; the "method of variance estimates recovery" of Zou and
Donner, 2008):

    half² = (t(seeds - 1) · sd over seeds / √seeds)² + (half-width over problems)²

Each half-width has its own number of degrees of freedom: with three seeds, Student's t is 4.3. A
difference of two choices has the same form. Its first term is that of Student's two-sample t, which
pools the variance over both choices' seeds and so assumes that they scatter equally. Its second
term compares the choices problem by problem.

The scatter between seeds includes some chance that the second term counts too, so the interval is
rather too wide: in the simulations of tests/test_ablate.py, 95 to 99 % of the intervals contain the
true value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot, inf, sqrt
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyzero.evaluate import interval as interval_over_problems
from tinyzero.evaluate import paired_variance

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and the two ends of its interval."""

    mean: float
    low: float
    high: float


class Scores(NamedTuple):
    """What one run scored in one evaluation."""

    mean: float
    """pass@1, in [0, 1]."""
    low: float
    high: float
    """The ends of the run's own 95 % interval, which is over problems."""
    problems: str = ""
    """A hash of the problems: equal if two runs were scored on the same ones, empty if unknown."""
    rates: tuple[float, ...] = ()
    """Share of right completions per problem. Empty if unknown, as in records of version 0.1."""
    clusters: tuple[int, ...] = ()
    """Which problems may depend on each other: those with the same number here."""


def read_scores(entry: Mapping[str, Any]) -> Scores:
    """The scores in one entry of eval.jsonl."""
    rates = tuple(count / entry["k"] for count in entry.get("right", ()))
    return Scores(
        entry["pass@1"],
        entry["pass@1/low"],
        entry["pass@1/high"],
        entry.get("problems", "") if rates else "",
        rates,
        tuple(entry["clusters"]) if rates else (),
    )


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of one value per seed, with its interval by Student's t.

    A single value says nothing about other seeds: its interval has no width.

    >>> [round(value, 3) for value in over_seeds([0.7, 0.8, 0.9])]
    [0.8, 0.552, 1.048]
    """
    centre = mean(values)
    if len(values) < 2:
        return Interval(centre, centre, centre)
    half = quantile(level, len(values) - 1) * stdev(values) / sqrt(len(values))
    return Interval(centre, centre - half, centre + half)


def mean_score(runs: Sequence[Scores]) -> Interval:
    """The mean pass@1 of the runs of one choice, with a 95 % interval over seeds and problems."""
    seeds = over_seeds([run.mean for run in runs])
    problems = _mean_over_problems(runs)

    low = seeds.mean - hypot(seeds.mean - seeds.low, problems.mean - problems.low)
    high = seeds.mean + hypot(seeds.high - seeds.mean, problems.high - problems.mean)
    return Interval(seeds.mean, max(0.0, low), min(1.0, high))


def difference(runs: Sequence[Scores], others: Sequence[Scores], comparisons: int = 1) -> Interval:
    """How much higher the mean pass@1 of `runs` is than that of `others`, with its interval.

    Results on the same problem are compared with each other if all runs were scored on the same
    problems. Seeds are not paired, since the same seed does not make two choices alike: their part
    of the width is that of Student's two-sample t, which assumes that both scatter equally. The
    interval is widened so that `comparisons` intervals all hold at once with 95 % (Bonferroni).
    """
    level = 1 - (1 - LEVEL) / comparisons
    centre = mean(run.mean for run in runs) - mean(run.mean for run in others)
    half = hypot(_half_over_seeds(runs, others, level), _half_over_problems(runs, others, level))
    return Interval(centre, max(-1.0, centre - half), min(1.0, centre + half))


def quantile(level: float, degrees: float) -> float:
    """Student's t such that the share `level` of the distribution lies between -t and t.

    >>> round(quantile(0.95, 2), 3)
    4.303
    """
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, degrees))


def _mean_over_problems(runs: Sequence[Scores]) -> Interval:
    """The mean pass@1, with a 95 % interval over the problems only.

    If the runs recorded their results per problem, the interval is that of each problem's mean over
    the seeds. Otherwise its width is the runs' mean width, which is somewhat too wide.
    """
    if _same_problems(runs):
        clusters = [str(cluster) for cluster in runs[0].clusters]
        rates = _rates(runs).tolist()
        return Interval(mean(rates), *interval_over_problems(rates, clusters))
    return Interval(
        mean(run.mean for run in runs),
        mean(run.low for run in runs),
        mean(run.high for run in runs),
    )


def _half_over_seeds(runs: Sequence[Scores], others: Sequence[Scores], level: float) -> float:
    """Half the width of a difference's interval, over the seeds only; 0 if each has one seed."""
    degrees = len(runs) + len(others) - 2
    if not degrees:
        return 0.0
    squares = 0.0
    for choice in (runs, others):
        centre = mean(run.mean for run in choice)
        squares += sum((run.mean - centre) ** 2 for run in choice)

    error = sqrt(squares / degrees * (1 / len(runs) + 1 / len(others)))
    return quantile(level, degrees) * error


def _half_over_problems(runs: Sequence[Scores], others: Sequence[Scores], level: float) -> float:
    """Half the width of a difference's interval, over the problems only."""
    if not _same_problems([*runs, *others]):
        widths = [_mean_over_problems(choice) for choice in (runs, others)]
        standard_errors = [(w.high - w.low) / 2 / quantile(LEVEL, inf) for w in widths]
        return quantile(level, inf) * hypot(*standard_errors)

    differences = (_rates(runs) - _rates(others)).tolist()
    variance, clusters = paired_variance(differences, runs[0].clusters)
    return quantile(level, clusters - 1) * sqrt(variance)


def _same_problems(runs: Sequence[Scores]) -> bool:
    """Whether all runs recorded their results per problem, and on the same problems."""
    return bool(runs[0].rates) and len({(run.problems, len(run.rates)) for run in runs}) == 1


def _rates(runs: Sequence[Scores]) -> NDArray[np.float64]:
    """Share of right completions per problem, over all the runs."""
    rates: NDArray[np.float64] = np.array([run.rates for run in runs]).mean(axis=0)
    return rates
