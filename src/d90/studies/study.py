"""d90.Study: the search over an objective that d90 does not train: reinforcement learning, a loop of one's own, another framework.

    study = d90.Study("cartpole", D=policy.size, chance=20.0)
    while (trial := study.ask()) is not None:
        study.tell(trial, evaluate(trial.d, trial.projection_seed, trial.training_seed))
    print(study.d90, study.interval)

The objective is evaluated in theta_0 + P theta for the d and the seed of P that a trial names; `d = None` asks for the baseline,
all D numbers free. Trials are stored as they are told: killed and started again, a study goes on where it was.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Unpack

from d90.display import Display, Drawing
from d90.errors import InputError
from d90.files import Json
from d90.options import StudyOptions, with_options
from d90.options.studies import StudyFields
from d90.report.measure import write_report
from d90.results.measure import Measurement, Point
from d90.search import NextTrial, Observation, SearchProblem, SearchResult, Session
from d90.search.rules import goal
from d90.training.result import TrialResult
from d90.trials.context import context_here, versions
from d90.trials.row import TrialRow
from d90.trials.store import Store, digest

__all__ = ["Study", "Trial"]

NOISE = 0.03  # of the gain: how far scores of one d are expected to scatter, before any has ended


@dataclass(frozen=True)
class Trial:
    """What `Study.ask` wants evaluated.

    Attributes:
        d: the dimension of the subspace; None for the baseline, in which all D numbers are free.
        projection_seed: of P.
        training_seed: of everything else that is random.
        stop_at: a score at which the trial may stop and be told with `at_least=True`; None: it must run to its end.
        why: in words.
    """

    d: int | None
    projection_seed: int
    training_seed: int
    stop_at: float | None
    why: str


class Study(Display):
    """d90 of an objective, by asking and telling.

    Example:
        >>> study = d90.Study("hill", D=1000, store="hill.sqlite", budget=3)
        >>> trial = study.ask()
        >>> trial.d is None  # the baseline first
        True
        >>> study.tell(trial, 0.9)

    Args:
        name: of the objective; a study is found again by its name and its question.
        D: how many numbers the objective takes.
        store: an SQLite file of trials, or an open store.
        options: the rule, the range of d, the budget (`d90.StudyOptions`); its fields are keywords too, as direction="minimize".

    Raises:
        InputError: values that make no question; names what was expected.
        StoreError, RunFailed: the store cannot be used.
    """

    @with_options
    def __init__(
        self,
        name: str,
        *,
        D: int,
        store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
        options: StudyOptions = StudyOptions(),
        **fields: Unpack[StudyFields],
    ) -> None:
        one = options
        if D < 1:
            raise InputError(f"got D={D}, expected at least 1")
        self.name, self.D, self.rule, self.fraction, self.seed = name, D, one.rule, one.fraction, one.seed
        self._sign = 1.0 if one.direction == "maximize" else -1.0
        self._chance, self._full = self._sign * one.chance, None if one.full is None else self._sign * one.full
        self._range = one.low, min(D, one.high or D)
        self._start = min(max(one.start or min(4096, max(1, D // 16)), one.low), self._range[1])
        self._budget, self._resolution, self._noise = one.budget, one.resolution, one.noise
        self._goal = goal(one.rule, self._chance, one.fraction)
        self.store = store if isinstance(store, Store) else Store(store)
        asked = [one.rule, one.fraction, one.chance, one.full, one.direction, one.low, self._range[1], one.seed]
        self.key = digest(["objective", name, D, *asked])
        self._told: dict[NextTrial, Point] = {}
        self._open: dict[Trial, NextTrial] = {}
        self._session = self._resumed()

    # --- ask and tell ------------------------------------------------------------------------------------------------

    def ask(self) -> Trial | None:
        """The next trial; None where it is enough, or where an open trial must be told first. Several may be open at once."""
        asked = self._session.ask()
        if asked is None:
            return None
        inside = asked.d is not None and not asked.whole and self._level is not None
        trial = Trial(
            asked.d,
            asked.projection_seed,
            asked.training_seed,
            self._sign * (self._level or 0.0) if inside else None,
            asked.why,
        )
        self._open[trial] = asked
        return trial

    def tell(
        self,
        trial: Trial,
        score: float | None = None,
        *,
        failed: bool = False,
        at_least: bool = False,
        cost: float = 1.0,
    ) -> None:
        """What a trial gave; stored when this returns.

        Args:
            score: in the objective's own direction; needed unless it failed.
            failed: training failed and says nothing of d: a diverged run, not a low score.
            at_least: it stopped once it reached `trial.stop_at`.
            cost: in baselines.

        Raises:
            InputError: a trial that is not open, a score that is no finite number, or a baseline that failed.
        """
        if trial not in self._open:
            raise InputError(
                f"got a trial of d={trial.d} that is not open; expected one that `ask` gave and that was not told yet"
            )
        if not failed and (score is None or not math.isfinite(score)):
            raise InputError(f"got score={score}, expected a finite number; tell a failed training with failed=True")
        if failed and trial.d is None:
            raise InputError(
                "got a baseline that failed, expected its score: there is no threshold without one. Mend it and tell again"
            )
        if at_least and trial.stop_at is None:
            raise InputError("got at_least for a trial that must run to its end (its stop_at is None)")
        asked = self._open.pop(trial)
        status = "diverged" if failed else "passed" if at_least else "finished"
        given = min(self._chance, 0.0) if failed else self._sign * float(score or 0.0)
        result = TrialResult(given, status, steps=cost, context=context_here(self.key, self.key))
        stop_at = None if trial.stop_at is None else self._sign * trial.stop_at
        key = digest([self.key, asked.d, asked.projection_seed, asked.training_seed])
        self.store.add(
            TrialRow(key, self._recipe(asked), result, stop_at, asked.d, asked.training_seed), study=self.key
        )
        self._session.tell(asked, _observation(asked, result, stop_at))
        self._told[asked] = _point(asked, result, stop_at)
        if any(one.d is not None for one in self._told):
            self.store.put_study(self.key, "measure", self.measurement.to_dict())

    def optimize(self, evaluate: Callable[[Trial], float], jobs: int = 1) -> Study:
        """Ask, evaluate and tell until it is enough.

        Args:
            evaluate: gives a trial's score; what it raises ends the study, and what was told stays told.
            jobs: trials under way at once, a thread each.

        Raises:
            InputError: jobs below 1.
        """
        if jobs < 1:
            raise InputError(f"got jobs={jobs}, expected at least 1")
        if jobs == 1:
            while (trial := self.ask()) is not None:
                self.tell(trial, evaluate(trial))
            return self
        with ThreadPoolExecutor(jobs) as pool:
            running: dict[Future[float], Trial] = {}
            while True:
                while len(running) < jobs and (trial := self.ask()) is not None:
                    running[pool.submit(evaluate, trial)] = trial
                if not running:
                    return self
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self.tell(running.pop(future), future.result())

    # --- answers -----------------------------------------------------------------------------------------------------

    @property
    def result(self) -> SearchResult:
        """What the trials say so far."""
        return self._session.result()

    @property
    def d90(self) -> int | None:
        """The middle of what the trials leave possible; None where they do not bound it."""
        return self.result.d90

    @property
    def interval(self) -> tuple[int | None, int | None]:
        """Holds d90 with a probability of 90 %; an end that the trials do not bound is None."""
        return self.result.interval

    @property
    def measurement(self) -> Measurement:
        """The answer in the shape of `d90.measure`'s, as the store and its page have it; scores are negated where smaller is better."""
        found = self.result
        scores = tuple(point.score for asked, point in self._told.items() if asked.d is None)
        baseline = self._full if self._full is not None else math.fsum(scores) / len(scores)
        threshold = self._goal.at(baseline)
        return Measurement(
            model=self.name,
            task="objective",
            method="full@d",
            metric="score",
            rule=self.rule,
            fraction=self.fraction,
            status=found.status if threshold > self._chance else "trivial",
            d90=found.d90,
            interval=found.interval,
            D=self.D,
            lambdas=0,
            baseline=baseline,
            baseline_scores=scores or (baseline,),
            baseline_method="the objective itself" if self._full is None else "a given number",
            majority=self._chance,
            zero=self._chance,
            threshold=threshold,
            curve=tuple(point for asked, point in self._told.items() if asked.d is not None),
            recipe={"model": self.name, "task": "objective"},
            definitions={"layer": "none (an objective)", "budget": self._budget, "notes": [], **versions()},
            seconds=0.0,
            coverage=found.coverage,
            sure=found.sure,
            noise=found.noise,
            spent=found.spent,
        )

    def plot(self) -> Drawing:
        """Score against d, as on the page; shown by itself in a notebook, `save(path)` writes it."""
        return self.measurement.plot()

    def page(self, path: str | os.PathLike[str]) -> Path:
        """Write the page of the store that this study is in.

        Raises:
            InputError: nothing was told of any d yet.
        """
        return write_report(self.store, path)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, D={self.D}, {len(self._told)} trials, d90={self.d90}, interval={self.interval})"

    # --- helpers -----------------------------------------------------------------------------------------------------

    @property
    def _level(self) -> float | None:
        """The threshold so far; None before the baseline is known."""
        scores = [one.low for one in self._session.own if one.d is None]
        if self._full is not None:
            return self._goal.at(self._full)
        return self._goal.at(math.fsum(scores) / len(scores)) if scores else None

    def _resumed(self) -> Session:
        """The session with every stored trial of this question told."""
        rows = [row for row in self.store.trials() if row.result.context.task == self.key]
        baselines = [row.score for row in rows if row.d is None]
        full = self._full if self._full is not None else math.fsum(baselines) / len(baselines) if baselines else None
        gain = abs((full if full is not None else self._chance + 1.0) - self._chance) or 1.0
        problem = SearchProblem(
            goal=self._goal,
            low=self._range[0],
            high=self._range[1],
            chance=self._chance,
            noise=self._noise if self._noise is not None else NOISE * gain,
            full=self._full,
            start=self._start,
            seed=self.seed,
            resolution=self._resolution,
            budget=self._budget,
        )
        own = []
        for row in rows:
            asked = NextTrial(row.d, row.projection_seed, row.seed, False, "stored")
            own.append(_observation(asked, row.result, row.stop_at))
            self._told[asked] = _point(asked, row.result, row.stop_at)
        return Session(problem, own)

    def _recipe(self, asked: NextTrial) -> Json:
        method = "full" if asked.d is None else f"full@d={asked.d}"
        return {
            "model": self.name,
            "task": "objective",
            "method": method,
            "seed": asked.training_seed,
            "projection_seed": asked.projection_seed,
        }


def _observation(asked: NextTrial, result: TrialResult, stop_at: float | None) -> Observation:
    return Observation.of(asked, result.status, result.score, stop_at, result.steps)


def _point(asked: NextTrial, result: TrialResult, stop_at: float | None) -> Point:
    passed = result.status == "passed"
    seeds = asked.training_seed, asked.projection_seed
    return Point(asked.d or 0, seeds[0], result.score, passed, result.status, 0.0, seeds[1], stop_at=stop_at)
