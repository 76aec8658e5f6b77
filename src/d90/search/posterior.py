"""What finished trials say about the crossing: a monotone fit of the score against ln d, with its uncertainty.

    y = f(ln d) + noise,  noise ~ N(0, sigma^2);   f monotone;   d90 = min {d : f(ln d) >= a + b F},  F: the mean full score

f has a Gaussian-process prior (a constant, a slope, a Matern 5/2 part); samples of its posterior are projected onto monotone
functions by isotonic regression: the posterior of Lin and Dunson, "Bayesian monotone regression using Gaussian process
projection", Biometrika 101, 303-317, 2014. Amplitude, length and sigma are averaged over a grid by their marginal likelihood.
A trial that stopped once it passed, or was given up, is censored: its score is known to lie in an interval, and the samples
are weighted by the probability of that. F is uncertain too: N(mean of its k scores, s^2 / k), s^2 between the scores' own variance
and sigma^2. Trials that share a seed share noise: half of the variance for P's seed (a quarter at another d), half for training's.

A function of the set of trials alone: neither their order nor the time enters, so a resumed search goes on as it would have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import linalg, optimize, special

from d90.search.rules import Goal

__all__ = ["Posterior", "Trial", "fitted", "grid", "round_d"]

Array = NDArray[Any]
STEPS = 24  # values of d in a decade: steps of 10 %, each of two digits
FAR = math.log(64)  # the fit reaches so far beyond the values of d that were tried
# The prior's slope, as a share of the scale for each factor e of d: what curves have near a threshold of 90 %. 0.09 to 0.26 in
# benchmarks/search.py, 0.03 to 0.2 in docs/results. A mean of 1/6 was too steep where noise let the trials say little about it.
SLOPE, SLOPE_SPREAD = 1 / 10, 1 / 6
# Of the Matern part, as shares of the scale. Near straight lines (0.03) would carry the slope of far trials to the crossing.
AMPLITUDES = (0.1, 0.3)
LENGTHS = (1.0, 2.5)  # of the Matern part, in units of ln d: from a factor 3 to a decade
NOISES = (0.4, 0.63, 1.0, 1.6, 2.5, 4.0)  # times the noise that is expected
SPREAD = 1.0  # of ln sigma around it
WEIGHED = 3  # as many scores of full fine-tuning the trials' own scatter counts for, in that of the full scores
FEWEST = 150  # samples that must carry the weight
MOST = 12  # times the first number of samples, to get there


@dataclass(frozen=True)
class Trial:
    """A finished trial: its score lies in [low, high], equal where it is known.

    `d` is None for full fine-tuning. `p` and `t` are the seeds of P and of training. `cost` is in full fine-tunings.
    """

    d: int | None
    p: int
    t: int
    low: float
    high: float
    cost: float = 1.0

    @property
    def exact(self) -> bool:
        """Whether the trial ran to its end."""
        return self.low == self.high


@dataclass(frozen=True)
class Posterior:
    """Weighted samples.

    Attributes:
        ds: values of d, ascending; `paths` (samples, ds) has f there.
        sigma, full, level: noise, full score and threshold of each sample; `repeats`: how many full scores there are.
        crossing: ln of where each path reaches its level; infinite where it does not.
        weight: of each sample; they sum to 1.
    """

    ds: Array
    paths: Array
    sigma: Array
    full: Array
    repeats: int
    level: Array
    crossing: Array
    weight: Array

    def quantile(self, share: float) -> float:
        """A quantile of d90; infinite where the samples do not reach their level."""
        order = numpy.argsort(self.crossing)
        place = int(numpy.searchsorted(numpy.cumsum(self.weight[order]), share))
        return float(numpy.exp(self.crossing[order][min(place, len(order) - 1)]))

    def passes(self, d: int) -> float:
        """The probability that the mean score at d (one of `ds`) reaches the threshold."""
        column = self.paths[:, int(numpy.searchsorted(self.ds, d))]
        return float(self.weight @ (column >= self.level))

    def band(self, share: float) -> tuple[Array, Array, Array]:
        """Mean of f over `ds`, and its pointwise quantiles that hold `share` between them."""
        order = numpy.argsort(self.paths, axis=0)
        summed = numpy.cumsum(self.weight[order], axis=0)
        ranked = numpy.take_along_axis(self.paths, order, axis=0)
        ends = [numpy.argmax(summed >= q, axis=0) for q in ((1 - share) / 2, (1 + share) / 2)]
        low, high = (numpy.take_along_axis(ranked, end[None], axis=0)[0] for end in ends)
        return self.weight @ self.paths, low, high

    def worth(self) -> tuple[Array, float]:
        """By how much one more trial narrows the variance of ln d90: at each of `ds`, and of full fine-tuning.

        To first order, cov(crossing, f)^2 / (var f + sigma^2).
        """
        ends = math.log(self.ds[0]), math.log(self.ds[-1])
        c = numpy.clip(self.crossing, *ends)
        c = c - self.weight @ c

        def worth(values: Array, noise: float | None) -> Array:
            centred = values - self.weight @ values
            variance = self.weight @ centred**2
            # of full fine-tuning the mean's variance is known, and one score's is as many times that as there are
            more = self.repeats * variance if noise is None else noise
            return (self.weight * c @ centred) ** 2 / numpy.maximum(variance + more, 1e-300)

        noise = float(self.weight @ self.sigma**2)
        return worth(self.paths, noise), float(worth(self.full[:, None], None)[0])


def round_d(d: float) -> int:
    """d to two significant digits."""
    if d < 10:
        return max(1, round(d))
    unit = 10 ** (int(math.log10(d) + 1e-12) - 1)
    return round(d / unit) * unit


def grid(low: float, high: float) -> list[int]:
    """The values of d that are tried between two, both of them included."""
    first, last = math.floor(STEPS * math.log10(low)), math.ceil(STEPS * math.log10(high))
    between = {round_d(10 ** (k / STEPS)) for k in range(first, last + 1)}
    return sorted({math.ceil(low), math.floor(high)} | {d for d in between if low < d < high})


def fitted(
    trials: Sequence[Trial], goal: Goal, low: int, high: int, scale: float, noise: float, samples: int = 500
) -> Posterior:
    """The posterior of f, of the threshold and of the crossing.

    Args:
        trials: at least one in a subspace; of full fine-tuning where the goal depends on it.
        goal: the threshold as a function of the full score.
        low, high: the range of d.
        scale: what there is to gain: the full score less chance.
        noise: the standard deviation of a score over seeds that is expected.
        samples: how many, at first.
    """
    # the order in which trials ended must not change a bit
    inside = sorted((t for t in trials if t.d is not None), key=lambda t: (t.d, t.p, t.t, t.low, t.high))
    full = numpy.sort([t.low for t in trials if t.d is None])
    tried = sorted({t.d for t in inside if t.d is not None})
    ds = numpy.array(sorted({*grid(max(low, tried[0] / 64), min(high, tried[-1] * 64)), *tried}), dtype=numpy.float64)
    x = numpy.log(ds)
    place = numpy.searchsorted(ds, [t.d for t in inside if t.d is not None])
    known = numpy.array([t.exact for t in inside])
    exact = [t for t in inside if t.exact]
    mean_full = float(full.mean()) if len(full) else 0.0
    prior = goal.at(mean_full) + SLOPE * scale * (x - x[place].mean())
    y = numpy.array([t.low for t in exact]) - prior[place[known]]
    models = [
        _Model(x, place[known], y, _shared(exact), scale, scale * a, length, noise * n)
        for a, length, n in itertools.product(AMPLITUDES, LENGTHS, NOISES)
    ]
    squares = float(((full - mean_full) ** 2).sum())
    evidence = numpy.array([
        model.evidence() - math.log(model.sigma / noise) ** 2 / (2 * SPREAD**2)
        for model in models
    ])  # fmt: skip
    chances = numpy.exp(evidence - evidence.max())
    chances /= chances.sum()
    for tries in itertools.count():
        count = samples * 2**tries
        draw = numpy.random.default_rng(tries)
        shares = numpy.floor(numpy.cumsum(chances) * count + 0.5).astype(int)
        many = numpy.diff(shares, prepend=0)
        paths = [model.paths(int(n), draw) for model, n in zip(models, many, strict=True) if n]
        sigma = numpy.repeat([model.sigma for model in models], many)
        f = numpy.stack([optimize.isotonic_regression(path).x for path in prior + numpy.concatenate(paths)])
        weight = _censored(f[:, place[~known]], [t for t in inside if not t.exact], sigma)
        if 1 / (weight**2).sum() >= FEWEST or 2**tries >= MOST:
            break
    fulls = numpy.full(len(f), mean_full)
    if len(full):
        own = numpy.sqrt((WEIGHED * sigma**2 + squares) / (WEIGHED + len(full) - 1))
        fulls = fulls + own * draw.standard_normal(len(f)) / math.sqrt(len(full))
    levels = goal.intercept + goal.slope * fulls
    return Posterior(ds, f, sigma, fulls, len(full), levels, _crossing(x, f, levels), weight)


def _shared(trials: Sequence[Trial]) -> Array:
    """The correlation of the trials' noise."""
    d, p, t = (numpy.array([getattr(trial, name) for trial in trials]) for name in ("d", "p", "t"))
    same_d, same_p, same_t = (seeds[:, None] == seeds[None] for seeds in (d, p, t))
    found = 0.5 * same_t + same_p * numpy.where(same_d, 0.5, 0.25)
    numpy.fill_diagonal(found, 1.0)
    return found


class _Model:
    """The Gaussian process of f less its prior mean, given the exact scores y at x[place], for one set of its numbers."""

    def __init__(
        self, x: Array, place: Array, y: Array, shared: Array, scale: float, amplitude: float, length: float, sigma: float
    ) -> None:  # fmt: skip
        r = math.sqrt(5) * numpy.abs(x[:, None] - x[None]) / length
        from_centre = x - (x[place].mean() if len(place) else x.mean())
        slope = (SLOPE_SPREAD * scale) ** 2 * numpy.outer(from_centre, from_centre)
        self.prior = scale**2 + slope + amplitude**2 * (1 + r + r**2 / 3) * numpy.exp(-r)
        self.place, self.y, self.sigma, self.scale = place, y, sigma, scale
        self.factor: Any = None
        if len(place):
            inner = self.prior[numpy.ix_(place, place)] + sigma**2 * shared
            self.factor = linalg.cho_factor(inner, lower=True)

    def evidence(self) -> float:
        """ln of the marginal likelihood of the exact scores, but for a constant."""
        if self.factor is None:
            return 0.0
        fit = self.y @ linalg.cho_solve(self.factor, self.y)
        return float(-0.5 * fit - numpy.log(numpy.diag(self.factor[0])).sum())

    def paths(self, count: int, draw: numpy.random.Generator) -> Array:
        """Samples (count, len(x))."""
        mean, covariance = numpy.zeros(len(self.prior)), self.prior
        if self.factor is not None:
            cross = covariance[:, self.place]
            mean = cross @ linalg.cho_solve(self.factor, self.y)
            covariance = covariance - cross @ linalg.cho_solve(self.factor, cross.T)
        # rounding leaves a posterior covariance a little short of positive: that much is added
        root = linalg.cholesky(covariance + 1e-8 * self.scale**2 * numpy.eye(len(covariance)), lower=True)
        return mean + draw.standard_normal((count, len(covariance))) @ root.T


def _censored(f: Array, trials: Sequence[Trial], sigma: Array) -> Array:
    """Weights of samples whose f at each censored trial is given: the probability of a score inside its interval."""
    logs = numpy.zeros(len(sigma))
    for values, trial in zip(f.T, trials, strict=True):
        upper, lower = (trial.high - values) / sigma, (trial.low - values) / sigma
        # ln(Phi(upper) - Phi(lower)), from the side on which both are small
        swap = lower > 0
        upper, lower = numpy.where(swap, -lower, upper), numpy.where(swap, -upper, lower)
        large, small = special.log_ndtr(upper), special.log_ndtr(lower)
        logs += large + numpy.log1p(-numpy.exp(numpy.minimum(small - large, -1e-12)))
    weight = numpy.exp(logs - logs.max())
    return weight / weight.sum()


def _crossing(x: Array, f: Array, level: Array) -> Array:
    """Where monotone paths reach their levels, linear between the values of x; x[0] if they start above, infinite if below."""
    over = f >= level[:, None]
    first = over.argmax(1)
    rows = numpy.arange(len(f))
    before = numpy.maximum(first - 1, 0)
    rise = f[rows, first] - f[rows, before]
    share = numpy.divide(level - f[rows, before], rise, out=numpy.ones(len(f)), where=(first > 0) & (rise > 0))
    found = x[before] + share * (x[first] - x[before])
    return numpy.where(over.any(1), found, numpy.inf)
