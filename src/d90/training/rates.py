"""The learning rate of a method on a model and a task, found by runs of its own recipe: a ladder of rates, readings first, whole runs last.

    readings     of a ladder by factors of 3 around a first guess: runs that end after an eighth of the steps, on the schedule of a
                 whole run, judged by their validation loss; the ladder is widened while the best lies at an end
    whole runs   at the two best rates, judged by the score; the next rate too while the better one lies at an end of those run
                 whole and is clearly better than its neighbour

Readings of the whole schedule choose better than whole runs of a shorter one, which prefer rates that are too high; neither chooses
well enough to decide alone (docs/results/rates_readings.md). What runs the recipes is the caller's: a store answers for runs that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from d90.methods import parse
from d90.tasks.metrics import to_display
from d90.training.failures import all_failed
from d90.training.recipe import Recipe
from d90.training.result import TrialResult

__all__ = ["Ladder", "RateSearch", "RateTrial", "RunAll", "find_rate"]

RunAll = Callable[[Sequence[Recipe]], Sequence[TrialResult]]  # of recipes that do not depend on one another


@dataclass(frozen=True)
class Ladder:
    """How rates are searched.

    Attributes:
        ratio: of neighbouring rates.
        until: the share of the steps of a reading.
        min_steps: a reading takes no fewer; where that is most of a run, whole runs take its place.
        finals: how many rates are run whole; `max_finals` at most, where the best lies at their end.
        max_readings: how far the ladder is widened.
        clear: the share of what was learned by which a neighbour's score is clearly better.
    """

    ratio: float = 3.0
    until: float = 1 / 8
    min_steps: int = 16
    finals: int = 2
    max_finals: int = 4
    max_readings: int = 9
    clear: float = 0.05


@dataclass(frozen=True)
class RateTrial:
    """One run at one rate: the share of the schedule it ran, its best score, and its last validation loss (None where it failed)."""

    lr: float
    until: float
    score: float
    zero_score: float
    loss: float | None
    steps: float

    @classmethod
    def of(cls, recipe: Recipe, result: TrialResult) -> RateTrial:
        """What a run says of its rate."""
        assert recipe.lr is not None
        return cls(recipe.lr, recipe.until, result.score, result.zero_score, result.last_loss, result.steps)


@dataclass(frozen=True)
class RateSearch:
    """A rate and the runs that chose it.

    Attributes:
        method: of the runs, with its d.
        lr: the rate that was found; `guess`, where the ladder began.
        trials: readings, then whole runs, each by rate.
        spent: their cost in whole runs.
    """

    method: str
    lr: float
    guess: float
    trials: tuple[RateTrial, ...]
    spent: float

    @property
    def whole(self) -> tuple[RateTrial, ...]:
        """The whole runs."""
        return tuple(trial for trial in self.trials if trial.until == 1)

    @property
    def read(self) -> float:
        """The rate that the readings alone prefer, or the whole runs where there are no others."""
        readings = [trial for trial in self.trials if trial.until < 1]
        return min(readings, key=_loss).lr if readings else self.lr

    def describe(self, metric: str) -> str:
        """The curve and the cost in a line."""
        readings = ", ".join(f"{t.lr:g}: {_loss(t):.4f}" for t in self.trials if t.until < 1)
        whole = ", ".join(f"{t.lr:g}: {to_display(t.score, metric):.4f}" for t in self.whole)
        shown = f"loss early in the run {readings}; " if readings else ""
        method = parse(self.method).brief
        return f"learning rate {self.lr:g} for {method} ({shown}{metric} of whole runs {whole}; {self.spent:.1f} whole runs spent)"


def find_rate(run: RunAll, recipe: Recipe, guess: float, steps: int, ladder: Ladder | None = None) -> RateSearch:
    """Find the rate of a recipe.

    Args:
        run: runs recipes, side by side where it can.
        recipe: of the whole run; its own rate does not count.
        guess: where the ladder begins.
        steps: of the whole run.

    Raises:
        RunFailed: every whole run diverged, or memory did not suffice for one.
    """
    ladder = ladder or Ladder()
    until = max(ladder.until, min(1.0, ladder.min_steps / steps))
    trials: dict[tuple[float, int], RateTrial] = {}
    results: list[TrialResult] = []

    def tried(share: float, rungs: Sequence[int]) -> None:
        recipes = [replace(recipe, lr=_rate(guess, ladder.ratio, rung), until=share) for rung in rungs]
        for rung, one, result in zip(rungs, recipes, run(recipes), strict=True):
            trials[share, rung] = RateTrial.of(one, result)
            results.append(replace(result, lr=trials[share, rung].lr))

    def rungs_of(share: float) -> list[int]:
        return sorted(rung for at, rung in trials if at == share)

    share = until if until <= 0.5 else 1.0
    tried(share, (-1, 0, 1))
    worth = _by_loss if share < 1 else _by_score
    while len(rungs := rungs_of(share)) < ladder.max_readings:
        best = min(rungs, key=lambda rung: worth(trials[share, rung], rung))
        if best not in (rungs[0], rungs[-1]):
            break
        tried(share, [best - 1 if best == rungs[0] else best + 1])
    if share < 1:
        ranked = sorted(rungs_of(share), key=lambda rung: _by_loss(trials[share, rung], rung))
        tried(1.0, sorted(ranked[: ladder.finals]))
        while (
            len(whole := rungs_of(1.0)) < ladder.max_finals and (beyond := _beyond(trials, whole, ladder)) is not None
        ):
            tried(1.0, [beyond])
    winner = min(rungs_of(1.0), key=lambda rung: _by_score(trials[1.0, rung], rung))
    if trials[1.0, winner].loss is None:
        raise all_failed(
            f"every run that was to find the learning rate of {recipe.method}", [one for one in results if one.failed]
        )
    found = tuple(trials[at, rung] for at in sorted({at for at, _ in trials}) for rung in rungs_of(at))
    spent = sum(trial.steps for trial in found) / steps
    return RateSearch(recipe.method, trials[1.0, winner].lr, guess, found, spent)


def _rate(guess: float, ratio: float, rung: int) -> float:
    return float(f"{guess * ratio**rung:.2g}")


def _loss(trial: RateTrial) -> float:
    return math.inf if trial.loss is None else trial.loss


def _by_loss(trial: RateTrial, rung: int) -> tuple[float, int]:
    """What is smallest for the best reading: the nearest to the guess of equal ones, the lowest of those that diverged."""
    return (_loss(trial), rung if trial.loss is None else abs(rung))


def _by_score(trial: RateTrial, rung: int) -> tuple[bool, float, float, int]:
    """What is smallest for the best whole run: whatever one scored before it diverged, it is the last choice."""
    return (trial.loss is None, -trial.score, *_by_loss(trial, rung))


def _beyond(trials: Mapping[tuple[float, int], RateTrial], whole: Sequence[int], ladder: Ladder) -> int | None:
    """The next rate to run whole: behind the best one, where it lies at an end and clearly beats its neighbour."""
    best = min(whole, key=lambda rung: _by_score(trials[1.0, rung], rung))
    if len(whole) < 2 or best not in (whole[0], whole[-1]):
        return None
    step = -1 if best == whole[0] else 1
    found, neighbour = trials[1.0, best], trials[1.0, whole[1] if step < 0 else whole[-2]]
    learned = found.score - found.zero_score
    return best + step if found.score - neighbour.score > ladder.clear * learned > 0 else None
