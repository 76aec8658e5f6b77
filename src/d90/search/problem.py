"""What a search is asked, what it asks for, what it is given back and what it answers: plain data, which can be stored and sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from d90.search.rules import Goal

if TYPE_CHECKING:
    from d90.search.posterior import Posterior

__all__ = ["COVERAGE", "FAILED", "NextTrial", "Observation", "SearchProblem", "SearchResult", "nearest_d", "round_d"]

COVERAGE = 0.9
FAILED = (
    "diverged",
    "failed",
)  # statuses of trials that say nothing: a loss that was not finite, memory that did not suffice


@dataclass(frozen=True)
class SearchProblem:
    """What is searched.

    Attributes:
        goal: the threshold as a function of the full score.
        low, high: the range of d, both ends included.
        chance: the score that needs no training.
        noise: the standard deviation of a score over seeds, before any trial has ended (`d90.search.noise.expected_noise`).
        full: the full score where it is a given number; None: estimated from the trials of the baseline.
        scatter: (sum of squared deviations, degrees of freedom) of repeated trials elsewhere, which tell of the noise.
        start: the first d.
        first: values of d to try before anything else.
        seed: the first seed.
        resolution: enough when the interval's ends are within this ratio.
        budget: enough when this many full fine-tunings were spent.
        repeat_full: whether the baseline may be trained again with another seed.
        parallel: how many trials are asked for at once.
        squares_above: where only d = squares_above + k^2 can be trained (`kronecker`), the lambdas; None where any d can.
    """

    goal: Goal
    low: int
    high: int
    chance: float
    noise: float
    full: float | None = None
    scatter: tuple[float, int] = (0.0, 0)
    start: int = 4096
    first: Sequence[int] = ()
    seed: int = 0
    resolution: float = 1.25
    budget: float = 9.0
    repeat_full: bool = True
    parallel: int = 1
    squares_above: int | None = None

    def rounded(self, d: float) -> int:
        """The d in the range to train or to tell in the place of any: two digits, or the nearest that can be trained."""
        return nearest_d(d, self.low, self.high, self.squares_above)

    def at_least(self, d: int) -> int:
        """The smallest d from this one on that can be trained."""
        above = self.squares_above
        return d if above is None else above + _root_up(d - above) ** 2


@dataclass(frozen=True)
class Observation:
    """A finished trial: its score lies in [low, high], equal where it is known.

    A trial that stopped once it passed is known to reach the threshold at which it stopped, and no more: its score there is the
    highest of several looks. Of one that failed nothing is known: its score lies in [-inf, inf]. `d` is None for the
    baseline. `cost` is in full fine-tunings.
    """

    d: int | None
    projection_seed: int
    training_seed: int
    low: float
    high: float
    cost: float = 1.0

    @classmethod
    def of(cls, asked: NextTrial, status: str, score: float, stop_at: float | None, cost: float) -> Observation:
        """From a trial as it is stored: its status, its best score, and the threshold at which it would have stopped."""
        low = high = score
        if status == "passed":
            low, high = min(score, stop_at if stop_at is not None else score), math.inf
        elif status == "hopeless":
            high = max(score, stop_at) if stop_at is not None else math.inf
        elif status in FAILED:
            low, high = -math.inf, math.inf
        return cls(asked.d, asked.projection_seed, asked.training_seed, low, high, cost)

    @property
    def exact(self) -> bool:
        """Whether the trial ran to its end."""
        return self.low == self.high

    @property
    def failed(self) -> bool:
        """Whether it is known to have failed: it says nothing of its d."""
        return self.low == -math.inf and self.high == math.inf

    @property
    def order(self) -> tuple[float, ...]:
        """What trials are sorted by, so that the order in which they ended changes no bit."""
        return (self.d or 0, self.projection_seed, self.training_seed, self.low, self.high)


@dataclass(frozen=True)
class NextTrial:
    """A trial that is wanted: of the baseline where d is None. `whole`: it must run to its end."""

    d: int | None
    projection_seed: int
    training_seed: int
    whole: bool = True
    why: str = ""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        status: "found"; "floor": d90 is at most `d90`, and not bounded below; "unreachable": above the interval's lower end, and
            not bounded above; "unknown": the trials bound it on no side.
        d90: the median, or the upper bound where the status is "floor".
        interval: holds d90 with probability `coverage`; an end that the trials do not bound is None.
        sure: the smallest d whose mean passes with a probability of 90 %; None where that is not known of any.
        trials: what it rests on.
        failed: those whose training failed, known to or more likely than not.
        spent: in full fine-tunings.
        threshold: at the mean of the baselines.
        noise: the standard deviation of a score over seeds, as estimated.
    """

    status: str
    d90: int | None
    interval: tuple[int | None, int | None]
    sure: int | None
    coverage: float
    trials: tuple[Observation, ...]
    failed: tuple[Observation, ...]
    spent: float
    threshold: float
    noise: float
    posterior: Posterior | None


def nearest_d(d: float, low: int, high: int, squares_above: int | None = None) -> int:
    """d to two significant digits in low ... high; of those that are a square above a number, the nearest."""
    if squares_above is None:
        return min(max(round_d(d), low), high)
    least = _root_up(low - squares_above)
    most = max(math.isqrt(max(high - squares_above, 1)), least)
    return int(squares_above + min(max(round(math.sqrt(max(d - squares_above, 1))), least), most) ** 2)


def _root_up(number: int) -> int:
    """The smallest k from 1 on whose square is no less."""
    return math.isqrt(max(number, 1) - 1) + 1


def round_d(d: float) -> int:
    """d to two significant digits."""
    if d < 10:
        return max(1, round(d))
    unit = 10 ** (int(math.log10(d) + 1e-12) - 1)
    return round(d / unit) * unit
