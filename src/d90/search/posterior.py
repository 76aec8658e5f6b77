"""What finished trials say about c = ln d90.

    f(d) = L + slope (r(ln d - c) - share),   share = (L - chance) / (F - chance),   y = f(d) + noise of standard deviation sigma

F is the full score, L the threshold; slope is (F - L) / (1 - share) above the crossing and (L - chance) / share below it, so every
curve is anchored at chance, at the threshold and at the full score. r is one of the fixed curves of `d90.search.curves`. Unknown are c
(flat over the range, and some way beyond it on both sides, so that no end of a grid decides), the curve, sigma (lognormal about
what is expected) and F (about the mean of the baselines). All four are summed over grids: nothing is sampled, equal trials give equal bits.

A trial's score has heavy tails, and with a small probability its training failed: then it lies near chance and says nothing of d.
A trial that stopped once it passed is known to reach the threshold at which it stopped, one given up to lie in an interval.

Whatever depends on a trial is a function of f and sigma alone. It is tabulated over f once, and a trial costs one look-up
for each point of the grids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import special

from d90.search.curves import COUNT, Rises, rises
from d90.search.problem import Observation, SearchProblem

__all__ = ["Atoms", "Posterior", "fit_posterior", "full_scores", "probability_failed", "score_cdf"]

Array = NDArray[Any]
BELOW, ABOVE = 1.5, 2.5  # the prior of c reaches so far beyond the range of d
SIGMAS = 2.0 ** numpy.linspace(-2, 2, 7)  # times the noise that is expected
SPREAD = 0.8  # of ln sigma about it
OF_FULL = 0.8  # a baseline's scatter is so much of a trial's
TAIL, WIDER = 0.04, 3.0  # of scores that scatter more, and how much more
FAILS = 0.02  # the probability that a trial's training fails
FAILED_NEAR, FAILED_SCALE, FAILED_UP_TO = (
    0.8,
    0.08,
    0.6,
)  # its score: near chance, or anywhere up to so much of the gain
TABLE = 2048  # values of f
TABLE_BELOW, TABLE_ABOVE = 0.4, 0.7  # beyond chance and the full score, in units of the gain
COARSE, MIDDLE, FINE = 44, 18, 32  # points of c
EVERY = 12  # the coarse pass takes every so manieth curve
MAX_CURVES = 450
MASS = 0.995  # of the curves that are kept
ATOMS = 1500
CDF_REACH, CDF_PER = 15.0, 400.0
_Z = numpy.arange(-CDF_REACH, CDF_REACH + 1 / CDF_PER, 1 / CDF_PER)
CDF = (1 - TAIL) * special.ndtr(_Z) + TAIL * special.ndtr(_Z / WIDER)


@dataclass(frozen=True)
class Atoms:
    """Points of the posterior, equally likely: what decides a trial's score at each of them."""

    rises: Rises
    c: Array
    curve: Array
    sigma: Array
    full: Array
    level: Array
    chance: float

    def mean_at(self, d: float) -> Array:
        """f(d) of each."""
        share = self.rises.share
        rise = self.rises.pairs(math.log(d) - self.c, self.curve) - share
        up, down = (self.full - self.level) / (1 - share), (self.level - self.chance) / share
        return numpy.asarray(self.level + numpy.where(rise > 0, up, down) * rise)


@dataclass(frozen=True)
class Posterior:
    """The posterior of c on a grid, and equally likely points of the whole."""

    c: Array
    weight: Array
    atoms: Atoms
    noise: float
    gain: float

    @property
    def step(self) -> float:
        """Of the grid, in ln d."""
        return float(self.c[1] - self.c[0])

    def quantile(self, share: float) -> float:
        """A quantile of d90."""
        edges = numpy.append(self.c - self.step / 2, self.c[-1] + self.step / 2)
        cumulated = numpy.concatenate(([0.0], numpy.cumsum(self.weight)))
        return math.exp(float(numpy.interp(share, cumulated / cumulated[-1], edges)))

    def passes(self, d: float) -> float:
        """The probability that the mean score at d reaches the threshold."""
        return float((self.atoms.mean_at(d) >= self.atoms.level).mean())

    def band(self, ds: Sequence[float], share: float) -> list[tuple[float, float, float, float]]:
        """(d, mean of f, its pointwise quantiles that hold `share` between them)."""
        found = []
        for d in ds:
            values = self.atoms.mean_at(d)
            low, high = numpy.quantile(values, [(1 - share) / 2, (1 + share) / 2])
            found.append((float(d), float(values.mean()), float(low), float(high)))
        return found


@dataclass(frozen=True)
class _Scale:
    """What all curves have in common: the scores' scale and the noise."""

    chance: float
    full: float
    repeats: int
    goal: Any
    share: float
    sigmas: Array
    log_prior: Array

    @property
    def gain(self) -> float:
        return self.full - self.chance

    def levels(self, sigma: float, normal: Array) -> tuple[Array, Array]:
        """(full score, threshold) of curves whose normal numbers are given."""
        off = OF_FULL * sigma / math.sqrt(self.repeats) * normal if self.repeats else 0.0 * normal
        full = numpy.maximum(self.full + off, self.chance + 0.1 * self.gain)
        level = self.goal.intercept + self.goal.slope * full
        # a threshold at chance or at the full score leaves no room for a curve
        return full, numpy.clip(level, self.chance + 0.02 * self.gain, full - 1e-3 * self.gain)


@dataclass(frozen=True)
class _World:
    """What every pass works on.

    Attributes:
        curves: the shapes that f may have.
        tables: for each d ln d and the log-likelihood of its trials (sigmas, TABLE) over f.
    """

    curves: Rises
    scale: _Scale
    tables: Sequence[tuple[float, Array]]


def full_scores(trials: Sequence[Observation], problem: SearchProblem) -> list[float]:
    """Of the baselines; the given number where it is given."""
    if problem.full is not None:
        return [problem.full]
    return sorted(trial.low for trial in trials if trial.d is None and not trial.failed)


def fit_posterior(trials: Sequence[Observation], problem: SearchProblem) -> Posterior:
    """The posterior.

    Args:
        trials: finished; of the baseline where the problem gives no full score.
        problem: what is searched.
    """
    # the order in which trials ended must not change a bit
    return _fitted(tuple(sorted(trials, key=lambda trial: trial.order)), replace(problem, first=()))


@lru_cache(maxsize=2)  # the plan and the summary ask for the same
def _fitted(trials: tuple[Observation, ...], problem: SearchProblem) -> Posterior:
    inside = [trial for trial in trials if trial.d is not None and not trial.failed]
    scale = _scale(trials, problem)
    world = _World(rises(scale.share), scale, _tables(inside, scale))
    lowest, highest = math.log(problem.low) - BELOW, math.log(problem.high) + ABOVE
    every = numpy.arange(0, COUNT, EVERY)
    c = numpy.linspace(lowest, highest, COARSE)
    weight = _weights(world, every, c, numpy.arange(len(SIGMAS)), problem.noise)
    sigma = weight.sum((1, 2))
    noise = float(sigma @ scale.sigmas / sigma.sum())
    c = _narrowed(c, weight.sum((0, 2)), lowest, highest, MIDDLE)
    middle = numpy.sort(numpy.argsort(-sigma, kind="stable")[:2])
    weight = _weights(world, numpy.arange(COUNT), c, middle, noise)
    of_curve = weight.sum((0, 1))
    order = numpy.argsort(-of_curve, kind="stable")
    count = int(numpy.searchsorted(numpy.cumsum(of_curve[order]), MASS)) + 1
    chosen = numpy.sort(order[: min(max(count, 50), MAX_CURVES)])
    c = _narrowed(c, weight.sum((0, 2)), lowest, highest, FINE)
    likely = numpy.flatnonzero(sigma > 5e-3 * sigma.max())
    weight = _weights(world, chosen, c, likely, noise)
    return _posterior(world, chosen, c, weight, likely, noise)


def _scale(trials: Sequence[Observation], problem: SearchProblem) -> _Scale:
    scores = full_scores(trials, problem)
    full = math.fsum(scores) / len(scores) if scores else problem.chance + 1.0
    full = max(full, problem.chance + 1e-6)
    goal = problem.goal
    level = goal.at(full)
    share = (level - problem.chance) / (full - problem.chance)
    sigmas = problem.noise * SIGMAS
    log_prior = -0.5 * (numpy.log(SIGMAS) / SPREAD) ** 2
    freedom = len(scores) - 1 if problem.full is None else 0
    if freedom > 0:
        squares = math.fsum((score - full) ** 2 for score in scores) / OF_FULL**2
        log_prior = log_prior - freedom * numpy.log(sigmas) - squares / (2 * sigmas**2)
    squares, freedom = problem.scatter
    if freedom > 0:
        log_prior = log_prior - freedom * numpy.log(sigmas) - squares / (2 * sigmas**2)
    repeats = len(scores) if problem.full is None else 0
    # curves are anchored at a share in steps: they are made once for a search, whatever its baselines say later
    share = min(max(round(share * 20) / 20, 0.05), 0.95)
    return _Scale(problem.chance, full, repeats, goal, share, sigmas, log_prior)


def _tables(inside: Sequence[Observation], scale: _Scale) -> list[tuple[float, Array]]:
    """For each d (ln d, log-likelihood of its trials (sigmas, TABLE) over f)."""
    f = _table_grid(scale).astype(numpy.float32)[None]
    sigma = scale.sigmas.astype(numpy.float32)[:, None]
    found: dict[int, Array] = {}
    for trial in inside:
        assert trial.d is not None
        log = _log_likelihood(trial, f, sigma, scale)
        found[trial.d] = found[trial.d] + log if trial.d in found else log
    return [(math.log(d), found[d].astype(numpy.float32)) for d in sorted(found)]


def _table_grid(scale: _Scale) -> Array:
    start, end = scale.chance - TABLE_BELOW * scale.gain, scale.full + TABLE_ABOVE * scale.gain
    return numpy.linspace(start, end, TABLE)


def _log_likelihood(trial: Observation, f: Array, sigma: Array, scale: _Scale) -> Array:
    right, wrong = _likelihoods(trial, f, sigma, scale.chance, scale.gain)
    return numpy.log((1 - FAILS) * right + FAILS * wrong + (1e-12 / scale.gain if trial.exact else 1e-9))


def _likelihoods(trial: Observation, f: Array, sigma: float | Array, chance: float, gain: float) -> tuple[Array, float]:
    """Of the trial's score, where training went right, and where it failed: densities, or of an interval probabilities."""
    low, high = ((score - chance) / gain for score in (trial.low, trial.high))
    if trial.exact:
        z = (trial.low - f) / sigma
        normal = (1 - TAIL) * numpy.exp(-0.5 * z**2) + TAIL / WIDER * numpy.exp(-0.5 * (z / WIDER) ** 2)
        near = FAILED_NEAR * math.exp(-abs(low) / FAILED_SCALE) / (2 * FAILED_SCALE)
        wrong = (near + (1 - FAILED_NEAR) / FAILED_UP_TO * (0 <= low < FAILED_UP_TO)) / gain
        return normal / (sigma * math.sqrt(2 * math.pi)), wrong
    upper = score_cdf(trial.high, f, sigma) if math.isfinite(trial.high) else 1.0
    right = numpy.maximum(upper - score_cdf(trial.low, f, sigma), 0.0)
    return right, max(_failed_cdf(high) - _failed_cdf(low), 0.0)


def score_cdf(score: float | Array, f: Array, sigma: float | Array) -> Array:
    """The probability of a score below, where training does not fail."""
    z = numpy.clip((score - f) / sigma, -CDF_REACH, CDF_REACH)
    return numpy.asarray(CDF.take(((z + CDF_REACH) * CDF_PER + 0.5).astype(numpy.int32)))


def _failed_cdf(share: float) -> float:
    """The probability of less than this share of the gain, where training fails."""
    near = 0.5 * math.exp(share / FAILED_SCALE) if share < 0 else 1 - 0.5 * math.exp(-share / FAILED_SCALE)
    return FAILED_NEAR * near + (1 - FAILED_NEAR) * min(max(share / FAILED_UP_TO, 0.0), 1.0)


def probability_failed(trial: Observation, fit: Posterior) -> float:
    """That a trial's training failed, by all trials together."""
    if trial.failed:
        return 1.0
    if trial.d is None or trial.high == math.inf:
        return 0.0
    atoms = fit.atoms
    right, wrong = _likelihoods(trial, atoms.mean_at(trial.d), atoms.sigma, atoms.chance, fit.gain)
    return float((FAILS * wrong / ((1 - FAILS) * right + FAILS * wrong + 1e-12 / fit.gain)).mean())


def _weights(world: _World, chosen: Array, c: Array, sigmas: Array, noise: float) -> Array:
    """The posterior (sigmas, c, curves), which sums to 1; `noise` is what the baselines' mean is uncertain by."""
    curves, scale = world.curves, world.scale
    logs = numpy.zeros((len(sigmas), len(c), len(chosen)), dtype=numpy.float32)
    logs += scale.log_prior[sigmas].astype(numpy.float32)[:, None, None]
    start = scale.chance - TABLE_BELOW * scale.gain
    per = (TABLE - 1) / ((1 + TABLE_BELOW + TABLE_ABOVE) * scale.gain)
    full, level = scale.levels(noise, curves.full[chosen])
    up, down = (full - level) / (1 - scale.share), (level - scale.chance) / scale.share
    base, rising, falling = ((value * per).astype(numpy.float32) for value in (level - start, up, down))
    values: Array = curves.values.take(chosen, axis=1) - numpy.float32(scale.share)
    values *= numpy.where(values > 0, rising, falling)
    values += base + numpy.float32(0.5)
    numpy.clip(values, 0, TABLE - 1, out=values)
    for log_d, table in world.tables:
        below, weight = curves.places(log_d - c)
        place = values.take(below, axis=0)
        place += weight * (values.take(below + 1, axis=0) - place)
        index = place.astype(numpy.int32)
        for row, sigma in enumerate(sigmas):
            logs[row] += table[sigma].take(index)
    logs -= logs.max()
    numpy.exp(logs, out=logs)
    return numpy.asarray(logs / logs.sum(dtype=numpy.float64))


def _narrowed(c: Array, weight: Array, lowest: float, highest: float, points: int) -> Array:
    """A finer grid over where the mass is."""
    step = c[1] - c[0]
    cumulated = numpy.cumsum(weight)
    first, last = (int(numpy.searchsorted(cumulated, share)) for share in (2e-4, 1 - 2e-4))
    low = max(lowest, c[max(first, 0)] - 1.5 * step)
    high = min(highest, c[min(last, len(c) - 1)] + 1.5 * step)
    return numpy.linspace(low, high, points)


def _posterior(world: _World, chosen: Array, c: Array, weight: Array, likely: Array, noise: float) -> Posterior:
    """From the weights on the last grid: that of c, and equally likely points of the whole."""
    curves, scale = world.curves, world.scale
    cumulated = numpy.cumsum(weight.ravel())
    places = numpy.searchsorted(cumulated, (numpy.arange(ATOMS) + 0.5) / ATOMS * cumulated[-1])
    s, k, r = numpy.unravel_index(numpy.minimum(places, weight.size - 1), weight.shape)
    step = c[1] - c[0]
    # points of one cell are spread over it, by a fixed sequence
    spread = (numpy.arange(ATOMS) * 0.6180339887498949) % 1 - 0.5
    full, level = scale.levels(noise, curves.full[chosen[r]])
    atoms = Atoms(curves, c[k] + spread * step, chosen[r], scale.sigmas[likely][s], full, level, scale.chance)
    noise = float(weight.sum((1, 2)) @ scale.sigmas[likely])
    return Posterior(c, weight.sum((0, 2)), atoms, noise, scale.gain)
