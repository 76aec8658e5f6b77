"""The noise a search expects before any trial has ended: the standard deviation of a score over seeds of P and of training.

    sigma_0 = sqrt(floor^2 + expected^2)

`floor` is what seeds alone do: a little over a point of accuracy, of other scores a little over a hundredth of the gain. `expected` is half
of what drawing the n validation examples anew would do, sd(one example's value) / sqrt(n) / 2. The search takes sigma_0 for the
middle of a wide prior, and its trials decide: expecting too little is the dangerous side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from d90.search.rules import scale_of

__all__ = ["FLOOR", "expected_noise", "pooled_scatter"]

FLOOR = 0.012  # in points of accuracy, or of what there is to gain
USUAL = math.sqrt(0.15 * 0.85)  # the standard deviation of one example's accuracy at a score of 85 %
MAX_FREEDOM = 6  # repeats elsewhere count for no more than so many: another task's noise is a hint


def expected_noise(metric: str, examples: int, full: float, chance: float, deviation: float = 0.0) -> float:
    """sigma_0.

    The standard deviation of one example's value is accuracy's for shares of examples, 1 - rho^2 for correlations (its asymptotic
    one), and for a loss that of the examples' losses.

    Args:
        metric: of the task.
        examples: of the validation split.
        full, chance: scores of the baseline, and of what needs no training.
        deviation: of a loss, the standard deviation of the validation examples' losses; 0 where it is not known.
    """
    scale = scale_of(metric)
    if scale.share:
        return math.hypot(FLOOR, 0.5 * USUAL / math.sqrt(max(1, examples)))
    value = max(0.0, 1 - full**2) if scale.correlation else deviation
    return math.hypot(FLOOR * abs(full - chance), 0.5 * value / math.sqrt(max(1, examples)))


def pooled_scatter(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """(sum of squared deviations, degrees of freedom) over groups of repeated scores, scaled to at most MAX_FREEDOM."""
    squares, freedom = 0.0, 0
    for group in groups:
        mean = math.fsum(group) / len(group)
        squares += math.fsum((score - mean) ** 2 for score in group)
        freedom += len(group) - 1
    if freedom > MAX_FREEDOM:
        squares, freedom = squares * MAX_FREEDOM / freedom, MAX_FREEDOM
    return squares, freedom
