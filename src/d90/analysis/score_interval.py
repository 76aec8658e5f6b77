"""How well a score is known: from the examples it was measured on, and from the seeds it was trained with.

share of n examples    Wilson's interval (JASA 22, 209-212, 1927): never empty, also where all are right
any other score        the examples drawn anew (bootstrap percentiles, Efron and Tibshirani 1993, section 13.3)
a mean over S seeds    sd^2 = sd_examples^2 + t^2 s^2 / S in units of a normal's: the examples are the same for every seed, so their
                       part does not shrink with S; s is pooled over the methods that are compared

Examples that come in groups, as several answers to one prompt, are no independent draws: the groups are. Groups are drawn anew whole,
and n examples of which G groups are made say as much as `effective_count` independent ones (Rao and Scott, JASA 76, 221-230, 1981).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

__all__ = [
    "DRAWS",
    "LEVEL",
    "Groups",
    "bootstrap_interval",
    "by_group",
    "clearly_above",
    "combined_half_width",
    "drawn_anew",
    "effective_count",
    "indistinct",
    "pooled_deviation",
    "standard_error",
    "wilson_interval",
]

LEVEL = 0.95
DRAWS = 1000
Groups = NDArray[numpy.int64] | None


def standard_error(values: NDArray[Any], groups: Groups = None) -> float:
    """The standard error of a mean over examples; infinite where there is one independent example.

    Args:
        values: (n,).
        groups: which group each example belongs to (n,), from 0 on: groups are the independent draws, and their sizes vary; None where
            each example is one.
    """
    values = numpy.asarray(values, numpy.float64)
    sums = by_group(values - values.mean(), groups)
    count = len(sums)
    return math.sqrt(count / (count - 1) * float(sums @ sums)) / len(values) if count > 1 else math.inf


def by_group(values: NDArray[Any], groups: Groups) -> NDArray[Any]:
    """The sum of each group's values; the values where there are no groups."""
    return values if groups is None else numpy.bincount(groups, weights=values)


def drawn_anew(n: int, draws: int, groups: Groups = None) -> Iterator[NDArray[numpy.int64]]:
    """So many samples of n examples with replacement, as their numbers, by a generator of a fixed seed; groups are drawn whole."""
    drawn = numpy.random.default_rng(0)
    members = (
        None
        if groups is None
        else numpy.split(numpy.argsort(groups, kind="stable"), numpy.bincount(groups).cumsum()[:-1])
    )
    for _ in range(draws):
        if members is None:
            yield drawn.integers(0, n, size=n)
        else:
            yield numpy.concatenate([members[i] for i in drawn.integers(0, len(members), size=len(members))])


def effective_count(values: NDArray[Any], groups: Groups = None) -> float:
    """How many independent examples tell a mean as well as these do: n without groups, never more.

    Args:
        values: (n,); where all are equal, which does not tell how alike a group is, a group counts as one.
        groups: as for `standard_error`.
    """
    n = len(values)
    if groups is None:
        return float(n)
    single, grouped = standard_error(values), standard_error(values, groups)
    if single == 0 or math.isinf(grouped):
        return float(groups.max(initial=0) + 1)
    return n * min(1.0, (single / grouped) ** 2) if grouped > 0 else float(n)


def wilson_interval(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share of n examples.

    Args:
        share: between 0 and 1.
        n: examples; of examples in groups as many as `effective_count` says.
        level: of confidence.
    """
    z = _normal_quantile((1 + level) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_interval(
    score: Callable[[numpy.ndarray], float], n: int, draws: int = DRAWS, level: float = LEVEL, groups: Groups = None
) -> tuple[float, float]:
    """Percentiles of a score over examples drawn anew, with replacement, by a generator of a fixed seed.

    Args:
        score: of the examples with these numbers, (n,) int64.
        n: examples.
        draws: how often.
        level: of confidence.
        groups: as for `standard_error`; as many groups as there are, are drawn, each with all its examples.
    """
    values = [score(rows) for rows in drawn_anew(n, draws, groups)]
    low, high = numpy.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The standard deviation over seeds, pooled over methods, and its degrees of freedom; (0, 0) where each has one seed."""
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum((score - math.fsum(group) / len(group)) ** 2 for group in groups for score in group)
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)


def combined_half_width(examples: float, deviation: float, seeds: int, freedom: int, level: float = LEVEL) -> float:
    """Half the interval of a mean over seeds.

    Args:
        examples: standard deviation of a score by its examples, 0 where unknown.
        deviation, freedom: of one seed's score, as `pooled_deviation` gives them.
        seeds: over how many the mean is.
        level: of confidence.
    """
    z = _normal_quantile((1 + level) / 2)
    from scipy import stats

    t = float(stats.t.ppf((1 + level) / 2, freedom)) if freedom else 0.0
    return math.hypot(z * examples, t * deviation / math.sqrt(seeds))


def clearly_above(mean: float, low: float | None, level: float) -> bool:
    """Whether a score is above a level by more than its interval; without one, whether it is above at all."""
    return (mean if low is None else low) > level


def indistinct(mean: float, half: float, other_mean: float, other_half: float) -> bool:
    """Whether two scores differ by no more than their half intervals together, as of independent scores: sqrt(h^2 + k^2)."""
    return abs(mean - other_mean) <= math.hypot(half, other_half)


def _normal_quantile(share: float) -> float:
    from scipy import stats  # late: a second of imports, which predictions do without

    return float(stats.norm.ppf(share))
