"""Is a tune as good as a reference, less a margin m? A paired test of non-inferiority on the same examples.

    H0: score(tune) - score(reference) <= -m        rejected at level alpha: "good enough"

Accuracy: Tango's score test (Statistics in Medicine 17, 891-908, 1998). Of n examples b are right for the reference alone,
c for the tune alone:

    z = (c - b + n m) / sqrt(n (2 q + m (1 - m)))        q: the share of c, by maximum likelihood under H0

It is the score-test counterpart of McNemar's test for a margin; it keeps its level where few examples differ (a Wald test does
not, and is void for b = c = 0) and draws nothing. F1 and Matthews are no means over examples: there the examples are drawn
anew (paired bootstrap, Efron and Tibshirani 1993, section 8.3), 4,000 times from the table of (label, reference, tune) by a
generator of a fixed seed, and the alpha quantile of the difference is the lower bound. Of examples in groups b, c and n are scaled to
as many independent examples as say as much (`d90.analysis.score_interval.effective_count`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import optimize, stats

from d90.analysis.score_interval import Groups, effective_count
from d90.errors import InputError

__all__ = ["Comparison", "compare_paired", "examples_needed", "power", "score_of_table"]

DRAWS = 4000
PROPORTIONS = ("accuracy", "exact", "contains")  # means over examples, each of them right or wrong
Table = NDArray[Any]  # (..., labels, predictions): how many examples, or which share of them


@dataclass(frozen=True)
class Comparison:
    """A tune beside a reference on the same examples.

    Attributes:
        difference: score of the tune less that of the reference.
        lower: one-sided lower confidence bound of it, at 1 - alpha; above -m, the tune is good enough.
        discordant: the share of examples that one of the two gets right and the other wrong.
        n: examples.
        deviation: sqrt(n) times the standard deviation of the difference; None for a proportion, where `discordant` gives it.
        effective: as many independent examples say as much; n where each example is one.
    """

    difference: float
    lower: float
    discordant: float
    n: int
    deviation: float | None = None
    effective: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "effective", self.effective or float(self.n))


def compare_paired(
    metric: str, tune: Table, reference: Table, labels: Table, alpha: float = 0.05, groups: Groups = None
) -> Comparison:
    """Compare the predictions of two models on the same examples.

    Args:
        metric: "accuracy", "exact", "contains", "f1" or "matthews".
        tune, reference, labels: class numbers, (n,) each; of answers 1 for a right one, and labels of 1.
        alpha: the level of the test.
        groups: of a proportion, which group each example belongs to (n,), from 0 on; None where each is independent.

    Raises:
        InputError: arrays of different lengths, or another metric.
    """
    if not len(tune) == len(reference) == len(labels) > 0:
        raise InputError(f"got {len(tune)} and {len(reference)} predictions for {len(labels)} labels, expected as many")
    right, other = tune == labels, reference == labels
    b, c, n = int((other & ~right).sum()), int((right & ~other).sum()), len(labels)
    if metric in PROPORTIONS:
        effective = effective_count(right.astype(float) - other, groups)
        share = effective / n
        lower = tango_bound(b * share, c * share, effective, alpha)
        return Comparison((c - b) / n, lower, (b + c) / n, n, effective=effective)
    classes = int(max(tune.max(), reference.max(), labels.max())) + 1
    cells = numpy.bincount((labels * classes + reference) * classes + tune, minlength=classes**3)
    drawn = numpy.random.default_rng(0).multinomial(n, cells / n, size=DRAWS)
    tables = numpy.concatenate([cells[None], drawn]).reshape(-1, classes, classes, classes)
    differences = score_of_table(metric, tables.sum(2)) - score_of_table(metric, tables.sum(3))
    lower = float(numpy.quantile(differences[1:], alpha, method="inverted_cdf"))
    return Comparison(float(differences[0]), lower, (b + c) / n, n, math.sqrt(n) * float(differences[1:].std()))


def score_of_table(metric: str, table: Table) -> Table:
    """F1 of class 1, or Matthews' correlation, of tables of (label, prediction).

    Raises:
        InputError: another metric.
    """
    table = table.astype(numpy.float64)
    if metric == "f1":
        hit = table[..., 1, 1]
        wrong = table[..., 0, 1] + table[..., 1, 0]
        return numpy.divide(2 * hit, 2 * hit + wrong, out=numpy.zeros_like(hit), where=hit + wrong > 0)
    if metric != "matthews":
        raise InputError(f"got metric '{metric}' for a paired test, expected accuracy, f1 or matthews")
    labels, predicted = table.sum(-1), table.sum(-2)
    total, right = labels.sum(-1), numpy.trace(table, axis1=-2, axis2=-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (labels**2).sum(-1))
    above = right * total - (labels * predicted).sum(-1)
    return numpy.divide(above, numpy.sqrt(spread), out=numpy.zeros_like(above), where=spread > 0)


def power(n: int, discordant: float, margin: float, alpha: float = 0.05) -> float:
    """The probability that a tune exactly as good as the reference passes, by the normal approximation of the score test.

    Args:
        n: examples.
        discordant: the share of them that one of the two gets right and the other wrong.
        margin: m, as a share: 0.01 is a point.
    """
    under, true = _deviations(discordant, margin)
    if true == 0:
        return float(math.sqrt(n) * margin > stats.norm.isf(alpha) * under)
    return float(stats.norm.cdf((math.sqrt(n) * margin - stats.norm.isf(alpha) * under) / true))


def examples_needed(
    discordant: float, margin: float, alpha: float = 0.05, wanted: float = 0.8, deviation: float | None = None
) -> int:
    """How many examples give a tune exactly as good as the reference the probability `wanted` to pass.

    `deviation` is that of a `Comparison` by F1 or Matthews: a point of theirs is not a point of accuracy.
    """
    under, true = _deviations(discordant, margin) if deviation is None else (deviation, deviation)
    return math.ceil(((stats.norm.isf(alpha) * under + stats.norm.ppf(wanted) * true) / margin) ** 2)


def _deviations(discordant: float, margin: float) -> tuple[float, float]:
    """sqrt(n) times the standard deviation of the difference: as the test takes it under H0, and where the two are equal."""
    q = nuisance(discordant / 2, discordant / 2, 1.0, margin)
    return math.sqrt(2 * q + margin * (1 - margin)), math.sqrt(discordant)


def nuisance(b: float, c: float, n: float, margin: float) -> float:
    """The share of examples right for the tune alone, by maximum likelihood where that for the reference alone is m more."""
    # the derivative of b ln(q + m) + c ln q + (n - b - c) ln(1 - 2 q - m) is zero where 2 n q^2 - L q - c m (1 - m) = 0
    linear = b + c + margin * (b - c) - 2 * n * margin
    return (linear + math.sqrt(max(0.0, linear**2 + 8 * n * c * margin * (1 - margin)))) / (4 * n)


def tango_bound(b: float, c: float, n: float, alpha: float) -> float:
    """The difference at which the score test just fails to reject."""
    most = stats.norm.isf(alpha)

    def above(difference: float) -> float:
        m = -difference
        variance = n * (2 * nuisance(b, c, n, m) + m * (1 - m))
        return (c - b - n * difference) / math.sqrt(max(variance, 1e-300)) - most

    found, least = (c - b) / n, -1 + 1e-12
    if found <= least:
        return -1.0
    # at a difference of 1 the variance vanishes; nothing is lost by looking from a little below
    return float(optimize.brentq(above, least, min(found, 1 - 1e-12)))
