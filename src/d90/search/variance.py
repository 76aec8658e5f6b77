"""How much of a score's variance over seeds is P's, and how much training's.

    y = mean of its d + P + T,   var P = w s^2,   var T = (1 - w) s^2

Trials of one d with the same P share its part (one-way random effects); w's posterior under a flat prior, by restricted likelihood
(Patterson and Thompson, Biometrika 58, 545-554, 1971) on a grid, summed over the values of d. Few trials say little, and the
interval says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from d90.search.problem import Observation

__all__ = ["Shares", "variance_shares"]


@dataclass(frozen=True)
class Shares:
    """P's share of the variance: its posterior mean, and an interval that holds 90 % of the posterior.

    `deviation` is the standard deviation of a score over both seeds; training's share is 1 - `projection`.
    """

    projection: float
    interval: tuple[float, float]
    deviation: float
    trials: int


def variance_shares(trials: Sequence[Observation]) -> Shares | None:
    """The shares, from trials that ran to their end; None where no P was trained twice at one d."""
    groups: dict[int, list[Observation]] = defaultdict(list)
    for trial in trials:
        if trial.d is not None and trial.exact:
            groups[trial.d].append(trial)
    used = [
        sorted(group, key=lambda t: (t.projection_seed, t.training_seed))
        for _, group in sorted(groups.items())
        if len(group) > 1
    ]
    if not any(len({t.projection_seed for t in group}) < len(group) for group in used):
        return None
    ws = numpy.linspace(0.005, 0.995, 100)
    scores = [numpy.array([t.low for t in group]) for group in used]
    typical = float(numpy.sqrt(numpy.mean([y.var(ddof=1) for y in scores]))) or 1e-6
    sigmas = typical * numpy.exp(numpy.linspace(-2.5, 2.5, 81))
    logs = numpy.zeros((len(ws), len(sigmas)))
    for group, y in zip(used, scores, strict=True):
        p = numpy.array([t.projection_seed for t in group])
        same = p[:, None] == p[None]
        ones, n = numpy.ones(len(y)), len(y)
        for i, w in enumerate(ws):
            inverse = numpy.linalg.inv(w * same + (1 - w) * numpy.eye(n))
            total = ones @ inverse @ ones
            mean = ones @ inverse @ y / total
            square = (y - mean) @ inverse @ (y - mean)
            fixed = 0.5 * numpy.linalg.slogdet(inverse)[1] - 0.5 * numpy.log(total)
            logs[i] += fixed - (n - 1) * numpy.log(sigmas) - square / (2 * sigmas**2)
    weight = numpy.exp(logs - logs.max())
    weight /= weight.sum()
    over_w = weight.sum(1)
    low, high = (float(ws[min(int(numpy.searchsorted(over_w.cumsum(), q)), 99)]) for q in (0.05, 0.95))
    deviation = float(weight.sum(0) @ sigmas)
    return Shares(float(over_w @ ws), (low, high), deviation, sum(map(len, used)))
