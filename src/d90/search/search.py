"""The search: ask for a trial, tell its score, until it is enough; and what the trials say then."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from d90.errors import InputError
from d90.search.plan import next_trial
from d90.search.posterior import Posterior, fit_posterior, full_scores, probability_failed
from d90.search.problem import COVERAGE, NextTrial, Observation, SearchProblem, SearchResult, round_d

__all__ = ["search", "summarise"]

SURE = 0.9
LIKELY = 0.5  # above this probability a trial is called failed
OUTSIDE = 2.0  # an end farther than this factor from every d tried is not bounded by the trials


def search(
    evaluate: Callable[[NextTrial], Observation],
    problem: SearchProblem,
    own: Sequence[Observation] = (),
    known: Sequence[Observation] = (),
    progress: Callable[[str], None] = lambda message: None,
    prefetch: Callable[[Sequence[NextTrial]], None] = lambda coming: None,
) -> SearchResult:
    """Find d90.

    Args:
        evaluate: makes a trial.
        problem: what is searched.
        own: trials of this search that are finished; what they cost is spent.
        known: trials of others; they cost nothing.
        progress: is told what comes next.
        prefetch: is told of trials that will all be asked for: they may be made at once.

    Raises:
        InputError: an empty range, or a value outside it.
    """
    _check(problem)
    mine, told = list(own), set[Observation]()
    while True:
        coming = _coming(problem, [*known, *mine], math.fsum(trial.cost for trial in mine))
        if not coming:
            return summarise(problem, [*known, *mine], math.fsum(trial.cost for trial in mine))
        for asked in coming:
            progress(asked.why)
        if len(coming) > 1:
            prefetch(coming)
        mine += [evaluate(asked) for asked in coming]
        if all(trial.d is None for trial in mine):
            continue
        for trial in summarise(problem, [*known, *mine]).failed:
            if trial not in told:
                told.add(trial)
                progress(
                    f"d = {trial.d:,}, seed {trial.training_seed}: its training most likely failed; it says nothing of d90"
                )


def _check(problem: SearchProblem) -> None:
    if not 1 <= problem.low <= problem.high:
        raise InputError(
            f"got a range of d from {problem.low} to {problem.high}, expected 1 <= low <= high; the model may be too small for it"
        )
    outside = next((d for d in problem.first if not problem.low <= d <= problem.high), None)
    if outside is not None:
        raise InputError(f"got d={outside} to try, outside the range {problem.low} ... {problem.high}")


def _coming(problem: SearchProblem, trials: Sequence[Observation], spent: float) -> list[NextTrial]:
    """The trials to make at once: all of `first`, else as many as run in parallel."""
    found: list[NextTrial] = []
    while len(found) < max(problem.parallel, len(problem.first)):
        asked = next_trial(problem, trials, found, spent)
        if asked is None or (len(found) >= problem.parallel and asked.d not in problem.first):
            break
        found.append(asked)
    return found


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
    status, d90 = _status(fit, low, high, sound, level)
    sure = math.ceil(fit.quantile(SURE))
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
    fit: Posterior, low: int | None, high: int | None, sound: Sequence[Observation], level: float
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
    return "found", min(max(round_d(middle), low or 1), high or 10**18)
