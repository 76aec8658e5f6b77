"""d90 from evaluate(d, seeds) -> trial: which trial next, when it is enough, and what the trials say. Pure: it knows no model.

Bracket first, by steps that the shortfall suggests. Then every finished trial enters one fit (`d90.search.posterior`), and the
next is made near the middle of the interval, where it narrows the variance of ln d90 most (Waeber, Frazier and Henderson, SIAM
J. Control Optim. 51, 2261-2279, 2013, on bisection with noise), or of full fine-tuning, whose error moves the threshold. At last
the answer is confirmed: trained to its end with several seeds of P, one of them with two of training.

Each choice is a function of the set of finished trials alone: killed and started again, a search goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy

from d90.errors import InputError
from d90.search.failure import failed
from d90.search.posterior import Posterior, Trial, fitted, grid, round_d
from d90.search.rules import Goal

__all__ = ["Asked", "Found", "SearchProblem", "Trial", "failed", "round_d", "search"]

COVERAGE = 0.9
NEAR = 0.95  # of the best worth: a d that was tried before is preferred to a new one
REGION = (0.4, 0.6)  # of the crossing's probability: where trials are made
UNSURE = (0.02, 0.98)  # where passing is so likely, a trial runs to its end
STEP = (2.0, 16.0)  # least and most factor of a step of the bracket
CALM = 4.0  # the step where nothing suggests one


@dataclass(frozen=True)
class SearchProblem:
    """What is searched.

    Attributes:
        goal: the threshold as a function of the full score.
        full: the full score where it is a given number; None: the mean of its trials.
        low, high: the range of d, both ends included.
        scale: what there is to gain, the full score less chance.
        noise: the standard deviation of a score over seeds that is expected.
        start: the first d.
        first: values of d to try before anything else.
        seed: the first seed.
        seeds: how many seeds of P confirm the answer.
        resolution: enough when the interval's ends are within this ratio.
        budget: enough when this many full fine-tunings were spent.
        repeat_full: whether full fine-tuning may be repeated with another seed.
    """

    goal: Goal
    low: int
    high: int
    scale: float
    noise: float
    full: float | None = None
    start: int = 256
    first: Sequence[int] = ()
    seed: int = 0
    seeds: int = 2
    resolution: float = 1.25
    budget: float = 12.0
    repeat_full: bool = True


@dataclass(frozen=True)
class Asked:
    """A trial that is wanted: of full fine-tuning where d is None. `whole`: it must run to its end."""

    d: int | None
    p: int
    t: int
    whole: bool
    why: str


@dataclass(frozen=True)
class Found:
    """The result of a search.

    `status`: "found"; "floor": no d tried fails, so d90 is at most the smallest; "unreachable": none passes. `interval`
    holds d90 with probability `coverage`; an end is None where it is open. `spent` is in full fine-tunings.
    """

    status: str
    d90: int | None
    interval: tuple[int | None, int | None]
    coverage: float
    trials: tuple[Trial, ...]
    spent: float
    threshold: float
    posterior: Posterior | None
    confirmed: bool


def search(
    evaluate: Callable[[Asked], Trial],
    problem: SearchProblem,
    own: Sequence[Trial] = (),
    known: Sequence[Trial] = (),
    progress: Callable[[str], None] = lambda message: None,
    prefetch: Callable[[Sequence[Asked]], None] = lambda coming: None,
) -> Found:
    """Find d90.

    Args:
        evaluate: makes a trial.
        question: what is searched.
        own: trials of this search that are finished; what they cost is spent.
        known: trials of others; they cost nothing.
        told: is told what comes next.
        ahead: is told of trials that will all be asked for (of confirming ones, if the answer stays): they may be made at once.

    Raises:
        InputError: an empty range, or a value outside it.
    """
    q = problem
    if not 1 <= q.low <= q.high:
        raise InputError(
            f"got a range of d from {q.low} to {q.high}, expected 1 <= low <= high; the model may be too small for it"
        )
    outside = next((d for d in q.first if not q.low <= d <= q.high), None)
    if outside is not None:
        raise InputError(f"got d={outside} to try, outside the range {q.low} ... {q.high}")
    mine = list(own)
    while True:
        trials = [*known, *mine]
        spent = sum(trial.cost for trial in mine)
        fit = _fit(trials, q)
        asked = _next(trials, spent, fit, q)
        if asked is None:
            return _found(trials, spent, fit, q)
        progress(asked.why)
        coming = _coming(asked, trials, q)
        if len(coming) > 1:
            prefetch(coming)
        made = evaluate(asked)
        above = failed(made, [*known, *mine], q.scale, q.noise)
        if above is not None:
            progress(
                f"d = {made.d:,} fell far below d = {above.d:,}: its training failed; a lower learning rate may help"
            )
        mine.append(made)


def _level(trials: Sequence[Trial], q: SearchProblem) -> float:
    scores = [trial.low for trial in trials if trial.d is None]
    return q.goal.at(q.full if q.full is not None else math.fsum(scores) / max(1, len(scores)))


def _fit(trials: Sequence[Trial], q: SearchProblem) -> Posterior | None:
    if all(trial.d is None for trial in trials):
        return None
    kept = [t for t in trials if t.d is not None] if q.full is not None else trials
    goal = Goal(q.goal.at(q.full), 0.0) if q.full is not None else q.goal
    return fitted(kept, goal, q.low, q.high, q.scale, q.noise)


def _next(trials: Sequence[Trial], spent: float, fit: Posterior | None, q: SearchProblem) -> Asked | None:
    """The next trial, or None where it is enough."""
    fresh = _fresh(trials, q)
    if q.full is None and all(trial.d is not None for trial in trials):
        return Asked(None, q.seed, q.seed, True, "full fine-tuning")
    wanted = _wanted(trials, q)
    if wanted is not None:
        return wanted
    if spent >= q.budget - 0.5:
        return None
    bracket = _bracket(trials, fit, q)
    if bracket is not None:
        d, why = bracket
        return Asked(d, fresh, fresh, False, why) if d else None
    assert fit is not None
    low, high = fit.quantile((1 - COVERAGE) / 2), fit.quantile((1 + COVERAGE) / 2)
    answer = _answer(fit, q)
    confirming = _confirm(trials, answer, fresh, q) if answer is not None else []
    if high <= low * q.resolution or spent + len(confirming) >= q.budget - 0.5:
        return confirming[0] if confirming else None
    beyond = _beyond(trials, low, high, q)
    if beyond is not None:
        return Asked(beyond, fresh, fresh, True, f"{low:,.0f} ... {high:,.0f}: d = {beyond:,}, as far as that may be")
    worths, of_full = fit.worth()
    # far from the crossing a trial is worth something only to a fit that is sure of its slope
    from_, to = fit.quantile(REGION[0]), min(fit.quantile(REGION[1]), q.high)
    inside = (fit.ds >= max(q.low, from_ / 1.1)) & (fit.ds <= to * 1.1)
    worths = numpy.where(inside & (fit.ds >= q.low) & (fit.ds <= q.high), worths, 0.0)
    shown = f"{low:,.0f} ... {high:,.0f}"
    if q.full is None and q.repeat_full and of_full > worths.max():
        seed = next(s for s in range(q.seed, q.seed + len(trials) + 1) if all(t.d or t.t != s for t in trials))
        return Asked(None, seed, seed, True, f"{shown}: full fine-tuning again, seed {seed}")
    count = {d: sum(t.d == d for t in trials) for d in {trial.d for trial in _inside(trials)}}
    best = [int(d) for d, w in zip(fit.ds, worths, strict=True) if w >= NEAR * worths.max()]
    d = max(best, key=lambda d: (count.get(d, 0), worths[int(numpy.searchsorted(fit.ds, d))]))
    unsure = UNSURE[0] < fit.passes(d) < UNSURE[1]
    return Asked(d, fresh, fresh, unsure, f"{shown}: d = {d:,}, seed {fresh}")


def _coming(asked: Asked, trials: Sequence[Trial], q: SearchProblem) -> list[Asked]:
    """What is asked for from here whatever comes of it: the values of `first`, or, if the answer stays, what confirms it."""
    for rest in (_wanted, partial(_confirming, d=asked.d)):
        found, made = list[Asked](), list(trials)
        while (following := rest(made, q)) is not None and (found or following == asked):
            found.append(following)
            made.append(Trial(following.d, following.p, following.t, 0.0, 0.0))
        if found:
            return found
    return [asked]


def _confirming(trials: Sequence[Trial], q: SearchProblem, d: int | None) -> Asked | None:
    """The next trial that confirms d."""
    return next(iter(_confirm(trials, d, _fresh(trials, q), q)), None) if d is not None else None


def _fresh(trials: Sequence[Trial], q: SearchProblem) -> int:
    """The first seed that no trial in a subspace has."""
    return next(s for s in range(q.seed, q.seed + len(trials) + 1) if all(s not in (t.p, t.t) for t in _inside(trials)))


def _wanted(trials: Sequence[Trial], q: SearchProblem) -> Asked | None:
    """The first value of `first` that was not tried."""
    tried, fresh = {trial.d for trial in _inside(trials)}, _fresh(trials, q)
    return next((Asked(d, fresh, fresh, False, f"d = {d}, asked for") for d in q.first if d not in tried), None)


def _inside(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.d is not None]


def _fails(trial: Trial, level: float) -> bool:
    """Whether a trial lies below; the upper end of one that was given up is the threshold itself."""
    return trial.low < level and trial.high <= level


def _bracket(trials: Sequence[Trial], fit: Posterior | None, q: SearchProblem) -> tuple[int | None, str] | None:
    """The next d of the bracket; d is None where an end of the range decides; None once there is a bracket."""
    level = _level(trials, q)
    inside = _inside(trials)
    if not inside:
        d = min(max(round_d(q.start), q.low), q.high)
        return d, f"bracket: d = {d:,}"
    good = [t.d for t in inside if t.low >= level and t.d is not None]
    bad = [t.d for t in inside if _fails(t, level) and t.d is not None]
    if good and bad:
        return None
    assert fit is not None
    if not good:
        highest = max(t.d for t in inside if t.d is not None)
        if highest >= q.high:
            return (q.high if bad.count(q.high) < 2 else None), f"d = {q.high:,}, the highest, once more"
        step = min(max(fit.quantile(0.5) / highest, STEP[0]), STEP[1])
        d = min(round_d(highest * step), q.high)
        return d, f"bracket upwards: d = {d:,}"
    lowest = min(good)
    if lowest <= q.low:
        return (q.low if good.count(q.low) < 2 else None), f"d = {q.low:,}, the lowest, once more"
    d = max(round_d(lowest / CALM), q.low)
    return d, f"bracket downwards: d = {d:,}"


def _beyond(trials: Sequence[Trial], low: float, high: float, q: SearchProblem) -> int | None:
    """A d outside those tried where the interval reaches far beyond them: how steep the curve is cannot be told from its middle."""
    tried = [t.d for t in _inside(trials) if t.d is not None]
    if min(tried) > STEP[0] * max(low, q.low):
        return max(q.low, round_d(min(tried) / CALM))
    if min(high, q.high) > STEP[0] * max(tried):
        return min(q.high, round_d(max(tried) * CALM))
    return None


def _answer(fit: Posterior, q: SearchProblem) -> int | None:
    """The value of d nearest to the median of the crossing."""
    middle = fit.quantile(0.5)
    if not q.low <= middle <= q.high:
        return None
    return min(grid(q.low, q.high), key=lambda d: abs(math.log(d / middle)))


def _confirm(trials: Sequence[Trial], d: int, fresh: int, q: SearchProblem) -> list[Asked]:
    """The trials the answer lacks: `seeds` seeds of P, one of them with two of training, all run to their end."""
    whole = sorted(trial.p for trial in trials if trial.d == d and trial.exact)
    lacking = [fresh] * max(0, q.seeds - len(set(whole)))
    if q.seeds > 1 and len(set(whole)) == len(whole):
        lacking.append(whole[0] if whole else fresh)
    return [Asked(d, p, fresh, True, f"confirm d = {d:,}: P's seed {p}, training's {fresh}") for p in lacking]


def _found(trials: Sequence[Trial], spent: float, fit: Posterior | None, q: SearchProblem) -> Found:
    level = _level(trials, q)
    if fit is None:
        return Found("unreachable", None, (None, None), COVERAGE, tuple(trials), spent, level, None, False)
    low, middle, high = (fit.quantile(share) for share in ((1 - COVERAGE) / 2, 0.5, (1 + COVERAGE) / 2))
    inside = _inside(trials)
    bad = max((t.d for t in inside if _fails(t, level) and t.d is not None), default=None)
    good = min((t.d for t in inside if t.low >= level and t.d is not None), default=None)
    if middle > q.high or good is None:
        return Found("unreachable", None, (bad, None), COVERAGE, tuple(trials), spent, level, fit, False)
    if middle <= q.low or bad is None:
        return Found("floor", good, (None, good), COVERAGE, tuple(trials), spent, level, fit, False)
    answer = _answer(fit, q)
    assert answer is not None
    # the answer is one of the values of d that are tried: an interval narrower than their steps still holds it
    ends = (min(max(q.low, math.floor(low)), answer), max(math.ceil(high), answer) if high <= q.high else None)
    confirmed = not _confirm(trials, answer, 0, q)
    return Found("found", answer, ends, COVERAGE, tuple(trials), spent, level, fit, confirmed)
