"""Which trial next: the one after which ln d90 is expected to be known best.

For each of some values of d about the middle of the posterior, the possible scores are cut into eight equally likely bins; after a score in
a bin the variance of c is that of the points weighted by the probability of the bin. The d with the least expected variance is trained,
with fresh seeds; or the baseline again, whose error moves the threshold. A trial whose training failed is planned for likewise:
what it leaves unknown draws the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import special

from d90.search.posterior import ATOMS, OF_FULL, Atoms, Posterior, fit_posterior, score_cdf
from d90.search.problem import COVERAGE, NextTrial, Observation, SearchProblem

__all__ = ["next_trial"]

Array = NDArray[Any]
CANDIDATES = 22
BETWEEN = (0.2, 0.8)  # quantiles of the posterior
FARTHEST = 64.0  # a trial is no farther from those made than this factor
BINS = 8
UNSURE = (0.02, 0.98)  # where passing is so likely, a trial runs to its end
QUASI = special.ndtri((numpy.arange(ATOMS) * 0.7548776662466927 + 0.5) % 1)  # normal scores in a fixed, even sequence
MIN_TRIALS = 3  # in a subspace, before it is enough, or the baseline is trained again
MAX_FAILED = 3  # so many more trials that failed than others end a search: more of them would tell no more


def next_trial(
    problem: SearchProblem,
    observations: Sequence[Observation],
    pending: Sequence[NextTrial] = (),
    spent: float | None = None,
) -> NextTrial | None:
    """The next trial, or None where it is enough: a function of the sets of trials alone.

    Args:
        problem: what is searched.
        observations: finished trials.
        pending: asked for, and not finished.
        spent: in full fine-tunings; by default what the observations cost, and one for each that is pending.
    """
    baselines = [trial for trial in observations if trial.d is None]
    if problem.full is None and not baselines:
        if any(trial.d is None for trial in pending):
            return None  # nothing can be planned without a threshold
        return NextTrial(None, problem.seed, problem.seed, True, "full fine-tuning")
    seed = _fresh_seed(observations, pending, problem)
    tried = {trial.d for trial in observations} | {trial.d for trial in pending}
    wanted = next((d for d in problem.first if d not in tried), None)
    if wanted is not None:
        return NextTrial(wanted, seed, seed, False, f"d = {wanted:,}, asked for")
    cost = math.fsum(trial.cost for trial in observations) if spent is None else spent
    if cost + len(pending) >= problem.budget - 0.5:
        return None
    inside = [trial for trial in observations if trial.d is not None]
    scored = sum(not trial.failed for trial in inside)
    if sum(trial.failed for trial in observations) >= MAX_FAILED + scored:
        return None
    if not inside and not pending:
        d = problem.rounded(problem.start)
        return NextTrial(d, seed, seed, False, f"the first, d = {d:,}")
    fit = fit_posterior(observations, problem)
    fit = _as_if_ended(fit, observations, pending, problem)
    low, high = fit.quantile((1 - COVERAGE) / 2), fit.quantile((1 + COVERAGE) / 2)
    if high <= low * problem.resolution and scored >= MIN_TRIALS:
        return None
    return _best(fit, problem, observations, pending, seed)


def _best(
    fit: Posterior, problem: SearchProblem, observations: Sequence[Observation], pending: Sequence[NextTrial], seed: int
) -> NextTrial:
    shown = f"{fit.quantile((1 - COVERAGE) / 2):,.0f} ... {fit.quantile((1 + COVERAGE) / 2):,.0f}"
    candidates = _candidates(fit, problem, _tried(observations, pending))
    variances = [_expected_variance(fit.atoms, fit.atoms.mean_at(d), fit.atoms.sigma) for d in candidates]
    best = int(numpy.argmin(variances))
    inside = sum(trial.d is not None and not trial.failed for trial in observations)
    if problem.full is None and problem.repeat_full and inside >= MIN_TRIALS and not any(t.d is None for t in pending):
        again = _expected_variance(fit.atoms, fit.atoms.full, OF_FULL * fit.atoms.sigma)
        if again < variances[best]:
            taken = {trial.training_seed for trial in observations if trial.d is None}
            other = next(s for s in range(problem.seed, problem.seed + len(taken) + 1) if s not in taken)
            return NextTrial(None, other, other, True, f"{shown}: full fine-tuning again, seed {other}")
    d = candidates[best]
    unsure = UNSURE[0] < fit.passes(d) < UNSURE[1]
    return NextTrial(d, seed, seed, unsure, f"{shown}: d = {d:,}, seed {seed}")


def _tried(observations: Sequence[Observation], pending: Sequence[NextTrial]) -> list[int]:
    return [t.d for t in observations if t.d is not None] + [t.d for t in pending if t.d is not None]


def _candidates(fit: Posterior, problem: SearchProblem, tried: Sequence[int]) -> list[int]:
    """Values of d about the middle of the posterior, inside the range and not far from those tried."""
    low = max(fit.quantile(BETWEEN[0]) / 1.1, min(tried) / FARTHEST, problem.low)
    high = min(fit.quantile(BETWEEN[1]) * 1.1, max(tried) * FARTHEST, problem.high)
    low, high = min(low, problem.high), max(high, problem.low)
    values = numpy.exp(numpy.linspace(math.log(low), math.log(max(high, low)), CANDIDATES))
    return sorted({problem.rounded(float(d)) for d in values})


def _expected_variance(atoms: Atoms, mean: Array, sigma: Array) -> float:
    """Of c after one more score, whose mean and noise at each point are given."""
    count = len(mean)
    scores = numpy.sort(mean + sigma * QUASI[:count])
    edges = scores[(numpy.arange(1, BINS) * count) // BINS][:, None]
    below = numpy.concatenate(
        [numpy.zeros((1, count)), score_cdf(edges, mean[None], sigma[None]), numpy.ones((1, count))]
    )
    weight = numpy.diff(below, axis=0)
    total = weight.sum(1)
    first = weight @ atoms.c
    second = weight @ atoms.c**2
    return float((second - first**2 / numpy.maximum(total, 1e-12)).sum() / count)


def _as_if_ended(
    fit: Posterior, observations: Sequence[Observation], pending: Sequence[NextTrial], problem: SearchProblem
) -> Posterior:
    """The posterior once every pending trial has given the score that is expected of it."""
    if not pending:
        return fit
    guesses = []
    for trial in sorted(pending, key=lambda one: (one.d or 0, one.projection_seed, one.training_seed)):
        values = fit.atoms.full if trial.d is None else fit.atoms.mean_at(trial.d)
        score = float(numpy.median(values))
        guesses.append(Observation(trial.d, trial.projection_seed, trial.training_seed, score, score))
    return fit_posterior([*observations, *guesses], problem)


def _fresh_seed(observations: Sequence[Observation], pending: Sequence[NextTrial], problem: SearchProblem) -> int:
    """The first seed that no trial in a subspace has."""
    taken = {
        seed
        for trials in (observations, pending)
        for t in trials
        if t.d is not None
        for seed in (t.projection_seed, t.training_seed)
    }
    return next(s for s in range(problem.seed, problem.seed + len(taken) + 1) if s not in taken)
