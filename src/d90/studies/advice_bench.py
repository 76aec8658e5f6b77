"""Between the plan of advice, which knows no model, and the trials: requests become recipes, and runs are compared example by example."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from d90.analysis.score_interval import by_group, drawn_anew
from d90.methods import Spec, parse
from d90.search.advice_problem import Request, Run
from d90.tasks.metrics import LOSS
from d90.training.estimate import duration
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.training.record import beside
from d90.training.result import TrialResult
from d90.trials.request import TrialRequest
from d90.trials.runner import TrialRunner

__all__ = ["TrialBench"]

DRAWS = 100  # of the examples, for metrics that are no means over them
LARGEST = 1 << 27  # numbers: the tune of a larger trial is not kept, and is trained again if it is the answer


@dataclass
class TrialBench:
    """Runs a plan's requests.

    Attributes:
        runner: trains, and keeps the trials.
        recipe_of: how trials of a method are trained, but for rate and seed.
        progress: receives what is known so far.
        budget: in whole runs; known once a run has been timed.
        asked: every trial that was asked for.
        results: what they gave; `gaps`, of the groups of runs that were compared.
    """

    runner: TrialRunner
    recipe_of: Callable[[Spec], Recipe]
    progress: Progress
    budget: float = math.inf
    asked: list[TrialRequest] = field(default_factory=list)
    results: dict[Request, TrialResult] = field(default_factory=dict)
    gaps: dict[Any, tuple[float, float]] = field(default_factory=dict)

    def trial_of(self, request: Request) -> TrialRequest:
        """A request as a trial."""
        spec = parse(request.candidate.method)
        recipe = replace(self.recipe_of(spec), lr=request.lr, seed=request.seed, until=request.until)
        whole = request.until == 1
        keep = self.runner.kept(recipe) if whole and request.candidate.stored <= LARGEST else None
        return TrialRequest(spec, recipe, predictions=whole, pause=not whole, keep=keep)

    def run(self, requests: Sequence[Request]) -> list[Run]:
        """What runs gave; those that are stored are not repeated."""
        asks = [self.trial_of(request) for request in requests]
        self.asked += asks
        found = []
        for request, result in zip(requests, self.runner.run(asks), strict=True):
            cost = request.until - (self.paused_share(request) if request.until == 1 else 0.0)
            self.results[request] = result
            forgotten = result.forgetting[0].mean if result.forgetting else None
            found.append(Run(request, result.score, result.last_loss, cost, forgotten))
        return found

    def paused_share(self, whole: Request) -> float:
        """How much of a whole run its reading has done."""
        for share in {one.until for one in self.results if one.until < 1}:
            if replace(whole, until=share) in self.results:
                return share
        return 0.0

    @property
    def seconds(self) -> float:
        """Of all trials: a whole run's clock runs on from its reading's."""
        read = {one for one in self.results if one.until < 1}
        gone_on = {one for one in read if replace(one, until=1.0) in self.results}
        return math.fsum(result.seconds for request, result in self.results.items() if request not in gone_on)

    @property
    def spent(self) -> float:
        """In whole runs."""
        whole = (one for one in self.results if one.until == 1)
        return math.fsum(one.until for one in self.results) - math.fsum(map(self.paused_share, whole))

    def drop(self, tune: bool = True) -> None:
        """Remove the states of readings that nothing went on from, and the tunes that were not chosen."""
        self.runner.drop_paused([ask for ask in self.asked if ask.pause])
        for ask in self.asked if tune else ():
            if ask.keep is not None:
                for path in (ask.keep, beside(ask.keep)):
                    path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.runner.store.states.rmdir()

    @property
    def seconds_of_a_run(self) -> float:
        """The mean over what ran, by the time that stored trials took."""
        seconds = [(result.seconds, request.until) for request, result in self.results.items() if not result.failed]
        total = math.fsum(share for _, share in seconds)
        return math.fsum(one for one, _ in seconds) / total if total else 0.0

    def tell(self, message: str) -> None:
        """What is known so far, and how long it may take yet."""
        left = max(0.0, self.budget - self.spent) * self.seconds_of_a_run
        time = duration(left) if math.isfinite(left) else "an unknown time"
        self.progress.search_planned(f"{message}, about {time} left")

    # --- comparisons -----------------------------------------------------------------------------------------------

    def gap(self, runs: Sequence[Run], reference: Sequence[Run], goal: float | None) -> tuple[float, float]:
        """(how much worse, its standard error over the validation examples, the same for both); of the same runs only once."""
        place = tuple(run.request for run in runs), tuple(run.request for run in reference), goal
        if place not in self.gaps:
            self.gaps[place] = self._gap(runs, reference, goal)
        return self.gaps[place]

    def _gap(self, runs: Sequence[Run], reference: Sequence[Run], goal: float | None) -> tuple[float, float]:
        theirs = goal if goal is not None else _mean(run.score for run in reference)
        gap = theirs - _mean(run.score for run in runs)
        mine = [self.values(run) for run in runs]
        other = [self.values(run) for run in reference] if goal is None else []
        known = [[one for one in group if one is not None] for group in (mine, other)]
        if sum(map(len, known)) == len(mine) + len(other):
            difference = numpy.mean(known[0], axis=0) - (numpy.mean(known[1], axis=0) if other else 0.0)
            n, difference = len(difference), difference - difference.mean()
            squares = float((by_group(difference, self.runner.task.grouping("validation")) ** 2).sum())
            if self.runner.task.metric != LOSS:
                squares += 1.0  # two more examples that differ: few that do are no proof of none (Agresti and Min 2005)
            return gap, math.sqrt(squares) / n
        return gap, self._bootstrap(runs, reference if goal is None else ())

    def values(self, run: Run) -> NDArray[numpy.float64] | None:
        """Each validation example's part in the score (n,), whose mean it is; None of a metric that is no such mean."""
        task, kept = self.runner.task, self._kept(run)
        if task.metric == LOSS:
            losses = task.kind.kept_losses(kept, task.validation.labels)
            values = None if losses is None else -losses.double()
        elif kept.dim() == 1 and task.kind.asks(task.metric):
            values = kept.double()
        else:
            values = (kept == task.paired_labels).double() if kept.dim() == 1 else None
        if values is None or abs(values.mean().item() - run.score) > 1e-3 * max(1.0, abs(run.score)):
            return None
        return numpy.asarray(values, dtype=numpy.float64)

    def _kept(self, run: Run) -> torch.Tensor:
        labels = self.runner.task.validation.labels
        kept = torch.from_numpy(self.runner.predictions(self.trial_of(run.request).recipe).copy())
        whole = labels.dim() == 1 and len(kept) == len(labels)
        return kept if whole else kept.reshape(len(labels), -1)  # several numbers an example are stored in one row

    def _bootstrap(self, runs: Sequence[Run], reference: Sequence[Run]) -> float:
        """The deviation of the difference over samples of the examples, the same for all runs."""
        task = self.runner.task
        labels = task.paired_labels
        kept = [[self._kept(run) for run in group] for group in (runs, reference)]
        found = []
        for rows in map(torch.from_numpy, drawn_anew(len(labels), DRAWS, task.grouping("validation"))):
            means = [
                _mean(task.kind.measure(task.metric, one[rows], labels[rows]) for one in group) if group else 0.0
                for group in kept
            ]
            found.append(means[0] - means[1])
        return float(numpy.std(found, ddof=1))


def _mean(values: Any) -> float:
    given = list(values)
    return math.fsum(given) / len(given)
