"""Between the search, which knows no model, and the runner: trials asked for become requests, results become observations."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from d90.analysis.paired import compare_paired
from d90.errors import InputError
from d90.methods import Spec, parse
from d90.results.measure import Point
from d90.search import NextTrial, Observation
from d90.search.noise import pooled_scatter
from d90.search.plan import MAX_FAILED
from d90.search.problem import FAILED
from d90.search.pruning import Pruner
from d90.search.rules import Goal
from d90.studies.measurement_setting import Setting
from d90.tasks.metrics import to_display
from d90.training.failures import all_failed
from d90.training.recipe import Recipe
from d90.training.result import TrialResult
from d90.trials.request import TrialRequest
from d90.trials.row import TrialRow, setting_of

__all__ = ["MeasurementTrials", "scatter_of"]


class MeasurementTrials:
    """Makes the trials of one measurement.

    Args:
        setting: what is measured.
        goal: the threshold as a function of the full score.

    Attributes:
        runner: trains, and keeps the trials.
        spec, recipe: of the trials, without d.
        base: recipe of full fine-tuning, or of the method it is held against; None where its score is a given number.
        steps: of one full fine-tuning: the unit of cost.
        fixed: the full score where it is given.
        stops, prunes: whether trials may stop early, and whether those are given up whose curve says that they will fail.
        references: under the margin rule, how many trials of the baseline the others are paired with; 0 otherwise.
        noise: the standard deviation of a score over seeds that is expected; known once the baseline is there.
    """

    def __init__(self, setting: Setting, goal: Goal) -> None:
        asked, self.goal, self.noise = setting.asked.search, goal, 0.0
        self.runner, self.spec, self.recipe, self.base = setting.runner, setting.spec, setting.recipe, setting.base
        self.steps = replace(setting.recipe, epochs=setting.epochs).steps(len(setting.task.train))
        self.fixed = None if setting.base else to_display(float(asked.baseline), setting.task.metric)
        self.stops, self.prunes, self.references = not asked.full_curve, asked.prune, setting.references
        self.full: dict[int, TrialResult] = {}
        self.made: dict[tuple[int, int, int], tuple[Observation, Point, TrialResult]] = {}
        self.own: set[tuple[int, int, int]] = set()  # of `made`, what was trained for this measurement
        self.lost: list[TrialResult] = []  # what memory did not suffice for
        self.lost_full: list[TrialResult] = []  # baselines that failed

    @property
    def full_score(self) -> float:
        """The mean full score so far."""
        scores = [result.score for result in self.full.values()]
        return self.fixed if self.fixed is not None else math.fsum(scores) / len(scores)

    @property
    def points(self) -> tuple[Point, ...]:
        """Every trial in a subspace, by d and seeds."""
        return tuple(self.made[key][1] for key in sorted(self.made))

    @property
    def recipes(self) -> list[Recipe]:
        """Of every trial in a subspace."""
        return [self._recipe(*key)[1] for key in sorted(self.made)]

    def recipe_of(self, point: Point) -> Recipe:
        """Of one trial."""
        return self._recipe(point.d, point.p_seed, point.seed)[1]

    def run_full(self, seeds: Sequence[int]) -> list[Observation]:
        """Full fine-tuning with some seeds.

        Raises:
            TrainingFailed: the first of all diverged, or memory did not suffice; under the margin rule any of them.
        """
        assert self.base is not None
        spec = parse(self.base.method)
        asks = [TrialRequest(spec, replace(self.base, seed=seed), predictions=bool(self.references)) for seed in seeds]
        results = dict(zip(seeds, self.runner.run(asks), strict=True))
        sound = {seed: result for seed, result in results.items() if not result.failed}
        lost = [result for result in results.values() if result.failed]
        if lost and (self.references or not (self.full or sound)):
            raise all_failed(f"the baseline, {self.base.method},", lost, "--baseline-lr")
        self.full.update(sound)
        self.lost_full += lost
        return [self._full_trial(seed, results[seed]) for seed in seeds]

    def run(self, asked: NextTrial) -> Observation:
        """One trial that the search asks for.

        Raises:
            TrainingFailed: it is the third that diverged, or that memory did not suffice for, and none went right.
        """
        if asked.d is None:
            return self.run_full([asked.training_seed])[0]
        ask, p = self._ask(asked)
        (result,) = self.runner.run([ask])
        seeds = p, asked.training_seed
        if not result.lasting:  # nothing was trained
            self.lost.append(result)
            found = Observation.of(replace(asked, projection_seed=p), result.status, result.score, None, 0.0)
        else:
            self.own.add((asked.d, *seeds))
            found = self._keep((asked.d, *seeds), ask.recipe, result, ask.stop_at)
        if found.failed:
            self.check_some_went_right(MAX_FAILED)
        return found

    def check_some_went_right(self, fewest: int = 1) -> None:
        """Refuse to answer from trials that all failed, where there are at least so many.

        Raises:
            TrainingFailed: with their rate, and what to do.
        """
        results = [result for _, _, result in self.made.values()]
        wrong = [result for result in [*results, *self.lost] if result.failed]
        if len(wrong) >= fewest and all(result.failed for result in results):
            raise all_failed(f"every trial of {self.spec} in a subspace, of {len(wrong)},", wrong)

    def prefetch(self, coming: Sequence[NextTrial]) -> None:
        """Trials that the search will ask for: at once, where several can run, if what came before does not change them."""
        asks = [self._ask(asked)[0] for asked in coming if asked.d is not None]
        if self.runner.sends and all(ask.pruner is None for ask in asks):
            self.runner.prefetch(asks)

    def _ask(self, asked: NextTrial) -> tuple[TrialRequest, int]:
        """A trial of the search's, and P's seed."""
        assert asked.d is not None
        p = asked.projection_seed if self._p is None else self._p
        spec, recipe = self._recipe(asked.d, p, asked.training_seed)
        stop_at = self.goal.at(self.full_score) if self.stops and not asked.whole and not self.references else None
        give_up = self._pruner(stop_at) if stop_at is not None and self.prunes else None
        keep = self.runner.kept(recipe)
        return TrialRequest(spec, recipe, stop_at, give_up, predictions=bool(self.references), keep=keep), p

    @property
    def _p(self) -> int | None:
        """P's seed where the method names it."""
        return self.spec.space.seed if self.spec.space else None

    @property
    def seconds(self) -> float:
        """Of everything that was trained for this measurement."""
        trained = [*self.full.values(), *self.lost_full, *self.lost, *(self.made[key][2] for key in self.own)]
        return math.fsum(result.seconds for result in trained)

    def describe_failures(self, failures: Sequence[Observation]) -> list[str]:
        """A line for those whose training failed, and one for those that memory did not suffice for."""
        found = []
        for trained, words in (
            (True, "training most likely failed there, most often by too high a learning rate; such trials say nothing of d90, and a "
                   "lower --lr may help"),
            (False, "memory was exhausted there; such trials say nothing of d90, and a smaller --batch-size needs less"),
        ):  # fmt: skip
            those = [t for t in failures if ((t.d, t.projection_seed, t.training_seed) in self.made) == trained]
            if those:
                listed = ", ".join(f"d = {trial.d:,} (seed {trial.training_seed})" for trial in those)
                found.append(f"{listed}: {words}")
        return found

    def test(self, d: int) -> tuple[float | None, float | None]:
        """Scores on the test split: of d's trial that is best on validation, and of full fine-tuning where it was trained.

        None of one that failed.
        """
        whole = sorted((-trial.low, p, t) for (at, p, t), (trial, _, _) in self.made.items() if at == d and trial.exact)
        _, p, t = whole[0] if whole else (0.0, self.recipe.seed, self.recipe.seed)
        asks = [TrialRequest(*self._recipe(d, p, t), test=True)]
        if self.base is not None:
            asks.append(TrialRequest(parse(self.base.method), self.base, test=True))
        found, *full = (None if result.failed else result.test for result in self.runner.run(asks))
        return found, full[0] if full else None

    def begin(self) -> None:
        """Note which trials of others are there: those the measurement learns from, now and whenever it is resumed."""
        store, study = self.runner.store, self.runner.study
        assert study is not None
        if not store.used(study):
            store.begin(study, {row.key for row, _, _ in self._matching()} | {row.key for row in self._alike()})

    def stored(self) -> tuple[list[Observation], list[Observation]]:
        """The store's trials that answer this measurement's question: (made for it, there when it began).

        Full fine-tunings are among them only where they were made for it.
        """
        used = self.runner.store.used(self.runner.study or "")
        full = setting_of(self.base.to_dict()) if self.base else None
        for row in self.runner.store.trials():
            mine = self.base is not None and row.recipe.method == self.base.method and used.get(row.key, False)
            if mine and row.status == "finished" and row.setting == full:
                self.full.setdefault(row.seed, row.result)
        for row, p, recipe in self._matching():
            before = self.made.get((row.d or 0, p, row.seed))
            # stopped once, and later run to its end: one trial, its end, unless that failed
            if row.key in used and (before is None or not (before[0].exact or row.status in FAILED)):
                self._keep((row.d or 0, p, row.seed), recipe, row.result, row.stop_at)
                if used[row.key]:
                    self.own.add((row.d or 0, p, row.seed))
        own = [self._full_trial(seed, self.full[seed]) for seed in sorted(self.full)]
        own += [self.made[key][0] for key in sorted(self.own)]
        return own, [self.made[key][0] for key in sorted(self.made.keys() - self.own)]

    def _matching(self) -> Iterator[tuple[TrialRow, int, Recipe]]:
        """The store's trials in this space, whatever their d and seeds, each with P's seed and its recipe."""
        task, bases = self.runner.task.fingerprint, self.runner.bases(self.recipe)
        wanted, template = setting_of(self.recipe.to_dict()), str(self.spec.at(1, seed=None))
        for row in self.runner.store.trials():
            if not row.result.context.of(task, bases) or row.d is None:
                continue
            if row.setting != wanted or not 0 <= row.seed - self.recipe.seed < SEEDS:
                continue
            text = row.recipe.method
            try:
                space = parse(text).space
                same = space is not None and str(parse(text).at(1, seed=None)) == template
            except InputError:  # a method that this version does not have
                continue
            p = row.seed if space is None or space.seed is None else space.seed
            recipe = replace(self.recipe, method=text, seed=row.seed)
            paired = not self.references or (row.status == "finished" and self.runner.has_predictions(recipe))
            if same and paired and self._p in (None, p):
                yield row, p, recipe

    def _alike(self) -> Iterator[TrialRow]:
        """The store's trials on this task that ran to their end, of whatever model and method: what they repeat tells of the noise."""
        for row in self.runner.store.trials():
            if row.result.context.task == self.runner.task.fingerprint and row.status == "finished":
                yield row

    def scatter(self) -> tuple[float, int]:
        """(sum of squares, degrees of freedom) of trials that differ in their seeds alone, as they were when the measurement began."""
        used = self.runner.store.used(self.runner.study or "")
        own = {row.key for row, _, _ in self._matching()}  # the fit has these themselves
        return scatter_of(row for row in self._alike() if used.get(row.key) is False and row.key not in own)

    def _recipe(self, d: int, p: int, t: int) -> tuple[Spec, Recipe]:
        spec = self.spec.at(d, seed=self._p if self._p is not None or p == t else p)
        return spec, replace(self.recipe, method=str(spec), seed=t)

    def _full_trial(self, seed: int, result: TrialResult) -> Observation:
        return Observation.of(NextTrial(None, seed, seed), result.status, result.score, None, result.steps / self.steps)

    def _keep(
        self, place: tuple[int, int, int], recipe: Recipe, result: TrialResult, stop_at: float | None
    ) -> Observation:
        """Take up the trial of (d, P's seed, training's)."""
        (d, p, t), status, score = place, result.status, result.score
        trial = Observation.of(NextTrial(d, p, t), status, score, stop_at, result.steps / self.steps)
        lower = None
        if self.references and trial.exact:
            lower = self._bound(recipe, t)
            trial = replace(trial, low=lower, high=lower)
        passed, below = status == "passed", status == "hopeless"
        point = Point(d, t, score, passed, status, result.seconds, p, below, lower, stop_at)
        self.made[place] = trial, point, result
        return trial

    def _bound(self, recipe: Recipe, t: int) -> float:
        """The lower bound of the difference from the reference that this trial is paired with."""
        assert self.base is not None
        reference = replace(self.base, seed=self.base.seed + (t - self.base.seed) % self.references)
        task = self.runner.task
        labels, groups = task.paired_labels.numpy(), task.grouping("validation")
        pair = self.runner.predictions(recipe), self.runner.predictions(reference)
        return compare_paired(task.metric, *pair, labels, groups=groups).lower

    def _pruner(self, stop_at: float) -> Pruner:
        total = self.recipe.evaluations
        ended = [result for _, _, result in self.made.values() if result.status == "finished"]
        earlier = [[look.score for look in result.curve][1:] for result in ended]
        return Pruner([curve for curve in earlier if len(curve) == total], total, stop_at, self.noise)


def scatter_of(rows: Iterable[TrialRow]) -> tuple[float, int]:
    """(sum of squares, degrees of freedom) of finished trials that differ in their seeds alone."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        method = re.sub(r",?seed=\d+", "", row.recipe.method)
        groups[json.dumps([method, row.result.context.base, row.setting], sort_keys=True)].append(row.score)
    return pooled_scatter(sorted(scores) for _, scores in sorted(groups.items()) if len(scores) > 1)


SEEDS = 1000  # a measurement learns from trials with its own seeds: those from its first on
