"""What trials say: d90, its interval, and which of its ends they bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

from d90.search.posterior import Posterior, fit_posterior, full_scores, probability_failed
from d90.search.problem import COVERAGE, Observation, SearchProblem, SearchResult, nearest_d

__all__ = ["ends_in_words", "seeds_in_words", "summarise"]

SURE = 0.9
LIKELY = 0.5  # above this probability a trial is called failed
OUTSIDE = 2.0  # an end farther than this factor from every d tried is not bounded by the trials


def summarise(problem: SearchProblem, observations: Sequence[Observation], spent: float | None = None) -> SearchResult:
    """What the trials say, whoever chose them.

    Args:
        problem: what is searched.
        observations: finished trials.
        spent: in full fine-tunings; by default what they cost.
    """
    trials = tuple(observations)
    spent = math.fsum(trial.cost for trial in trials) if spent is None else spent
    scores = full_scores(trials, problem)
    level = problem.goal.at(math.fsum(scores) / len(scores)) if scores else math.nan
    inside = [trial for trial in trials if trial.d is not None]
    if not inside or not scores:
        return SearchResult(
            "unknown", None, (None, None), None, COVERAGE, trials, (), spent, level, problem.noise, None
        )
    fit = fit_posterior(trials, problem)
    failed = tuple(trial for trial in inside if probability_failed(trial, fit) > LIKELY)
    sound = [trial for trial in inside if trial not in failed]
    low, high = _ends(fit, problem, sound)
    status, d90 = _status(fit, low, high, sound, level, problem.squares_above)
    sure = problem.at_least(math.ceil(fit.quantile(SURE)))
    bounded = high is not None and sure <= problem.high
    return SearchResult(
        status, d90, (low, high), sure if bounded else None, COVERAGE, trials, failed, spent, level, fit.noise, fit
    )


def _ends(fit: Posterior, problem: SearchProblem, sound: Sequence[Observation]) -> tuple[int | None, int | None]:
    """The interval; None for an end that no trial bounds."""
    tried = [trial.d for trial in sound if trial.d is not None]
    if not tried:
        return None, None
    pad = math.exp(fit.step / 2)  # what the grid of c cannot tell
    low, high = fit.quantile((1 - COVERAGE) / 2) / pad, fit.quantile((1 + COVERAGE) / 2) * pad
    below = low < problem.low or low < min(tried) / OUTSIDE
    above = high > problem.high or high > max(tried) * OUTSIDE
    return None if below else math.floor(low), None if above else math.ceil(high)


def _status(
    fit: Posterior,
    low: int | None,
    high: int | None,
    sound: Sequence[Observation],
    level: float,
    squares_above: int | None,
) -> tuple[str, int | None]:
    """(status, d90): a median only where trials lie on both sides of it."""
    if low is None and high is None:
        return "unknown", None
    middle = fit.quantile(0.5)
    passed = [trial.d for trial in sound if trial.d is not None and trial.low >= level]
    short = [trial.d for trial in sound if trial.d is not None and trial.low < level and trial.high <= level]
    if low is None and (not short or middle < min(short)):
        return "floor", high
    if high is None and (not passed or middle > max(passed)):
        return "unreachable", None
    return "found", nearest_d(middle, low or 1, high or 10**18, squares_above)


def ends_in_words(low: int | None, high: int | None) -> str:
    """An interval; an end that is None is not bounded by the trials."""
    if low is None and high is None:
        return "not bounded by these trials"
    if low is None:
        return f"up to {high:,}, not bounded below by these trials"
    if high is None:
        return f"from {low:,}, not bounded above by these trials"
    return f"{low:,} to {high:,}"


def seeds_in_words(projection_seeds: Sequence[int]) -> str:
    """With how many seeds of P some trials were made, and in how many trials where those are more."""
    seeds, trials = len(set(projection_seeds)), len(projection_seeds)
    words = "one seed" if seeds == 1 else f"{seeds} seeds"
    return words if seeds == trials else f"{words} of P in {trials} trials"
