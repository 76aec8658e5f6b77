"""The rates of a measurement: found for the baseline and at the first d, reused for every d, and looked at again at the answer.

Also what is noted of a baseline before anything is spent on d, and of trials that beat it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from d90.files import Json
from d90.methods import Spec, parse
from d90.options import AUTO
from d90.results.measure import Point
from d90.search.problem import FAILED
from d90.studies.measurement_trials import MeasurementTrials
from d90.tasks.metrics import to_display
from d90.training.progress import Progress
from d90.training.rates import Ladder, RateSearch, find_rate
from d90.training.recipe import Recipe, default_lr
from d90.training.result import Evaluation, TrialResult
from d90.trials.request import TrialRequest

__all__ = ["MeasurementRates", "baseline_doubts", "better_than_baseline"]

CLEAR = 4.0  # standard deviations of a score over seeds
GROWING = 0.06  # of what was learned, over the last third of the steps: a baseline that was still improving
NEAR = 2.0  # an answer within this factor of the first d needs no other look at the rates


class MeasurementRates:
    """Finds the rates of a measurement's trials, those that are not given.

    Args:
        trials: makes the trials; the rates that are found become those of its recipes.
        lr, baseline_lr: "auto", or anything else: given, or the default.
        progress: receives the rates, their curves and costs.
    """

    def __init__(
        self, trials: MeasurementTrials, lr: float | str | None, baseline_lr: float | str | None, progress: Progress
    ) -> None:
        self.trials, self.progress = trials, progress
        self._auto, self._auto_baseline = lr == AUTO, baseline_lr == AUTO and trials.base is not None
        self.searches: list[RateSearch] = []
        self.spent = 0.0  # in full fine-tunings, beyond the runs that the measurement would have made without
        self._first: int | None = None

    @property
    def reserved(self) -> float:
        """What `look_again` costs where nothing has changed, in full fine-tunings."""
        return 3 * Ladder().until if self._auto else 0.0

    @property
    def cost(self) -> float:
        """What the rates have cost, and what the look at the answer will, in full fine-tunings."""
        return self.spent + self.reserved

    def find_baseline(self) -> None:
        """The baseline's rate."""
        base = self.trials.base
        if self._auto_baseline and base is not None:
            self.trials.base = replace(base, lr=self._search(base, parse(base.method)).lr)

    def find(self, first: int) -> None:
        """The trials' rate, at the first d of the search."""
        if not self._auto:
            return
        self._first = first
        self.trials.recipe = replace(self.trials.recipe, lr=self._search(*self._at(self._first)).lr)

    def look_again(self, d: int | None) -> list[str]:
        """At the answer: whether the readings still prefer what they preferred at the first d; if not, a whole run tells.

        Returns:
            What to say of it, if anything.
        """
        if not self._auto or d is None or self._first is None or 1 / NEAR <= d / self._first <= NEAR:
            return []
        found = self.searches[-1]
        recipe, _ = self._at(d)
        factor = Ladder().ratio
        until = max(t.until for t in found.trials if t.until < 1) if len(found.trials) > len(found.whole) else 1.0
        rates = [float(f"{found.read * step:.2g}") for step in (1 / factor, 1.0, factor)]
        results = self._run([replace(recipe, lr=rate, until=until) for rate in rates])
        self.spent += sum(result.steps for result in results) / self.trials.steps
        read = min(zip(rates, results, strict=True), key=lambda pair: _last_loss(pair[1]))[0]
        if read == rates[1]:
            return []
        other = float(f"{self.trials.recipe.lr * read / rates[1]:.2g}") if self.trials.recipe.lr else read
        (result,) = self._run([replace(recipe, lr=other)])
        self.spent += result.steps / self.trials.steps
        threshold = self.trials.goal.at(self.trials.full_score)
        if result.failed or result.score <= threshold + CLEAR / 2 * self.trials.noise:
            return []
        metric = self.trials.runner.task.metric
        return [
            f"at d = {d:,} the learning rate {other:g} does better than {self.trials.recipe.lr:g}, which was found at d = "
            f"{self._first:,}: {metric} {to_display(result.score, metric):.4f} where {to_display(threshold, metric):.4f} is the "
            f"threshold; d90 is likely smaller, measure again with --lr {other:g}"
        ]

    def to_dict(self) -> list[Json]:
        """As it is stored with the measurement."""
        return [asdict(search) for search in self.searches]

    def describe(self) -> list[str]:
        """A line for each rate that was found."""
        return [search.describe(self.trials.runner.task.metric) for search in self.searches]

    def _at(self, d: int) -> tuple[Recipe, Spec]:
        spec = self.trials.spec.at(d)
        return replace(self.trials.recipe, method=str(spec)), spec

    def _search(self, recipe: Recipe, spec: Spec) -> RateSearch:
        runner, steps = self.trials.runner, recipe.steps(len(self.trials.runner.task.train))
        self.progress.search_planned(f"the learning rate of {spec.brief}")
        found = find_rate(self._run, recipe, default_lr(spec, runner.task.kind), steps)
        self.searches.append(found)
        # the best whole run is a trial of the measurement's own
        self.spent += (found.spent * steps - next(t.steps for t in found.whole if t.lr == found.lr)) / self.trials.steps
        self.progress.note(found.describe(runner.task.metric))
        return found

    def _run(self, recipes: Sequence[Recipe]) -> list[TrialResult]:
        paired = bool(self.trials.references)
        asks = [TrialRequest(parse(one.method), one, predictions=paired and one.until == 1) for one in recipes]
        return self.trials.runner.run(asks)


def baseline_doubts(curve: Sequence[Evaluation], chance: float, noise: float, auto: bool) -> list[str]:
    """What speaks against a baseline as something to hold a d against, with what would help.

    Args:
        curve: its evaluations, the untrained model's first.
        chance: the score that needs no training.
        noise: the standard deviation of a score over seeds that is expected.
        auto: whether its rate was searched.
    """
    scores = [look.score for look in curve]
    best = max(scores)
    rate = "" if auto else ", or another rate (--baseline-lr auto)"
    if best - chance <= CLEAR * noise:
        return [
            "the baseline is not clearly above chance, so no d means anything against it; more epochs (--baseline-epochs), more "
            f"training examples{rate} would help"
        ]
    before = max((look.score for look in curve if 3 * look.step <= 2 * curve[-1].step), default=best)
    if scores[-1] - before > max(CLEAR * noise, GROWING * (best - scores[0])):
        return [
            f"the baseline was still improving when it ended: more epochs (--epochs, --baseline-epochs), so more steps{rate} would give "
            "a better one, and another d90"
        ]
    return []


def better_than_baseline(points: Sequence[Point], full: float, noise: float, metric: str) -> list[str]:
    """A line where a trial in a subspace is clearly above the full fine-tuning that it is held against."""
    above = [point for point in points if point.status not in FAILED and point.score - full > CLEAR * noise]
    if not above:
        return []
    best = max(above, key=lambda point: point.score)
    scores = (f"{to_display(score, metric):.4f}" for score in (best.score, full))
    return [
        "d = {:,} scored {}, clearly above the baseline's own {}: the baseline is not trained well, so its threshold is too low; try "
        "--baseline-lr auto, or more --baseline-epochs".format(best.d, *scores)
    ]


def _last_loss(result: TrialResult) -> float:
    return math.inf if result.last_loss is None else result.last_loss
