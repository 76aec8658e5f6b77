"""measure(model, task) -> Measurement: full fine-tuning, the threshold, and the smallest d that reaches it, with an interval.

The rules are in `d90.search.rules`, the search in `d90.search`. d90 is where the mean score over seeds, of P and of training, on
this validation split reaches the threshold of the mean full score; the interval says how well that is known.

Every trial is in the store as it ends; asked again, or after a kill, a measurement repeats none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
from typing_extensions import Unpack

from d90 import search
from d90.analysis.paired import compare_paired, examples_needed
from d90.files import Json
from d90.methods import Spec
from d90.models.loading import Model
from d90.options import AUTO, SearchOptions, TaskOptions, TrainingOptions, with_options
from d90.options.search import SearchFields
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.results.measure import Measurement
from d90.search.noise import expected_noise
from d90.search.rules import Goal, goal
from d90.search.variance import variance_shares
from d90.studies.measurement_rates import MeasurementRates, baseline_doubts, better_than_baseline
from d90.studies.measurement_setting import Asked, Setting, kept_of, prepare
from d90.studies.measurement_trials import MeasurementTrials
from d90.studies.measurement_tune import with_use
from d90.tasks import Task
from d90.tasks.metrics import to_display
from d90.training.estimate import Estimate
from d90.training.progress import Progress
from d90.training.showing import shows_progress
from d90.trials.context import versions
from d90.trials.options import RunFields, RunOptions

__all__ = ["MeasureFields", "measure"]

BUDGET = 9.0  # of a search by default, in full fine-tunings
SMALL_BUDGET = 7.0  # below it intervals are wide


class MeasureFields(SearchFields, TrainingFields, TaskFields, RunFields, total=False):
    """What `measure` takes as keywords besides its own parameters."""


@with_options
@shows_progress
def measure(
    model: str | Model,
    task: str | Task,
    method: str | Spec = "full",
    *,
    search: SearchOptions = SearchOptions(),
    training: TrainingOptions = TrainingOptions(lr=AUTO),
    data: TaskOptions = TaskOptions(),
    run: RunOptions = RunOptions(),
    **fields: Unpack[MeasureFields],
) -> Measurement:
    """Measure d90 of `method`'s space for `model` on `task`.

    Example:
        >>> found = d90.measure(model, task, rule="gain", lr=0.01, epochs=1, budget=2, start=32)
        >>> found.status in ("found", "floor", "unreachable", "unknown", "trivial")
        True
        >>> found.D
        643

    Args:
        model, task: as for `d90.train`.
        method: what moves and, behind "@", the kind of subspace (without d): "full@structure=said".
        search: the rule, the range of d, the budget, the baseline.
        training: how every trial is trained; the usual `lr` is "auto": found at the first d by short runs (`d90.training.rates`), whose
            cost counts in the budget, and looked at again at the answer.
        data: how the task's data is read.
        run: the store, the log, the executor and who receives the events.
        fields: those of the four as keywords, as budget=12, epochs=2.

    Raises:
        InputError: what was wrong, what was expected, what to do.
        StoreError, RunFailed: the store cannot be used; every trial diverged, or memory did not suffice for any.
    """
    progress = run.listener
    setting = prepare(model, task, method, Asked.of(search, training, data), run)
    _announce(setting, progress)
    chance = Chance(setting.runner.zero_score(), setting.runner.constant_score())
    trials = MeasurementTrials(setting, goal(setting.rule, chance.score, search.fraction, search.within))
    rates = MeasurementRates(trials, setting.asked.lr, setting.asked.baseline_lr, progress)
    progress.search_expected(_expected(setting))
    reference = _train_baseline(setting, trials, rates, chance.score)
    for doubt in reference.doubts:  # before anything is spent on d
        progress.note(doubt)
    answer = _search(setting, trials, rates, chance.score, reference.gain, progress)
    tested = trials.test(answer.d90) if search.test and answer.d90 is not None else (None, None)
    notes = _notes(setting, trials, rates, answer, reference.doubts, progress)
    result = _measurement(setting, trials, rates, chance, answer)
    result = replace(
        result,
        definitions=_definitions(setting, rates, answer, reference.deviation, notes),
        command=run.command,
        test=tested[0],
        baseline_test=tested[1],
    )
    result = with_use(result, setting, trials, training, data, progress)
    setting.runner.store.put_study(setting.key, "measure", result.to_dict())
    progress.search_ended(str(result))
    return result


@dataclass(frozen=True)
class Chance:
    """What needs no training: the untrained model's score and a constant guess's; the larger counts."""

    zero: float
    majority: float

    @property
    def score(self) -> float:
        """The larger."""
        return max(self.majority, self.zero)


@dataclass(frozen=True)
class Reference:
    """The baseline, trained.

    Attributes:
        gain: of its first trials over chance: resumed, the search must go on with the same scale.
        deviation: of the validation examples' losses, 0 of another metric.
        doubts: what speaks against it as something to hold a d against.
    """

    gain: float
    deviation: float
    doubts: list[str]


@dataclass(frozen=True)
class Answer:
    """What the search found.

    Attributes:
        found: None where nothing was searched.
        threshold: of the mean full score in the end.
        trivial: whether it is not above chance, so that no d would mean anything.
    """

    found: search.SearchResult | None
    threshold: float
    trivial: bool

    @property
    def reported(self) -> search.SearchResult | None:
        """`found` where it is reported: not of a trivial threshold."""
        return None if self.trivial else self.found

    @property
    def d90(self) -> int | None:
        """d90 where it is reported."""
        return self.reported.d90 if self.reported else None

    @property
    def trials(self) -> Sequence[search.Observation]:
        """What the search has seen."""
        return self.found.trials if self.found else ()


def _announce(setting: Setting, progress: Progress) -> None:
    """Say what is measured, and what is to know about its data."""
    progress.search_started(f"d90 of {setting.recipe.model} on {setting.recipe.task}, {setting.spec}")
    for note in setting.task.shown_notes:
        progress.note(note)
    setting.data.note_truncation(progress)
    progress.note(f"{len(setting.task.train):,} examples to train on, {len(setting.task.validation):,} to validate on")


def _expected(setting: Setting) -> Estimate:
    """What the measurement is likely to train: a budget of 9 is some 6 to 10 trials, for one that passes or fails early costs less."""
    asked, n = setting.asked, len(setting.task.train)
    auto = AUTO in (asked.lr, asked.baseline_lr)
    whole = asked.search.budget or BUDGET
    left = max(2, whole - (3 if auto and asked.search.budget else 0))
    baseline = (
        replace(setting.recipe, epochs=setting.epochs).steps(n) * max(1, setting.references) if setting.base else 0
    )
    return Estimate(
        baseline, setting.recipe.steps(n), (max(1, round(left) - 3), round(left) + 1), (4, 8) if auto else (0, 0)
    )


def _train_baseline(setting: Setting, trials: MeasurementTrials, rates: MeasurementRates, chance: float) -> Reference:
    """Find the baseline's rate, train it, and expect from it the noise of a score."""
    rates.find_baseline()
    seed, metric = setting.recipe.seed, setting.task.metric
    if setting.base:
        trials.run_full(range(seed, seed + (setting.references or 1)))
    gain = max(trials.full_score - chance, 1e-3)
    deviation = setting.runner.loss_deviation()
    trials.noise = expected_noise(metric, setting.task.independent("validation"), chance + gain, chance, deviation)
    doubts = list[str]()
    if setting.base:
        doubts = baseline_doubts(trials.full[seed].curve, chance, trials.noise, setting.asked.baseline_lr == AUTO)
    return Reference(gain, deviation, doubts)


def _search(
    setting: Setting, trials: MeasurementTrials, rates: MeasurementRates, chance: float, gain: float, progress: Progress
) -> Answer:  # fmt: skip
    """Find the trials' rate and search for d90; where the threshold is no better than chance, train what was asked for alone."""
    asked, runner = setting.asked.search, setting.runner
    threshold = trials.goal.at(trials.full_score)
    if threshold > chance:
        rates.find(search.nearest_d(asked.start, setting.low, setting.high, setting.space.squares_above))
    runner.study = setting.key
    trials.begin()
    runner.note(runner.study)
    own, others = trials.stored()
    threshold = trials.goal.at(trials.full_score)  # again: the store may have held more full fine-tunings
    levels = (f"{to_display(value, setting.task.metric):.4f}" for value in (trials.full_score, threshold, chance))
    progress.search_planned("baseline {}, threshold {} ({rule} rule), chance {}".format(*levels, rule=setting.rule))
    problem = _problem(setting, trials, rates, chance, gain)
    if problem.budget < SMALL_BUDGET:
        taken = f", of which finding the rates takes {rates.cost:.1f}," if rates.cost else ""
        progress.note(
            f"a budget of {asked.budget:g}{taken} leaves a wide interval; expected {SMALL_BUDGET + rates.cost:.2g} or more for ends "
            "within a factor of two"
        )
    if threshold > chance:
        found = search.search(trials.run, problem, own, others, progress.search_planned, trials.prefetch)
        threshold = trials.goal.at(trials.full_score)
        trials.check_some_went_right()
        return Answer(found, threshold, threshold <= chance)
    coming = [search.NextTrial(d, setting.recipe.seed, setting.recipe.seed, True, "") for d in asked.dims]
    trials.prefetch(coming)
    for one in coming:
        trials.run(one)
    return Answer(None, threshold, True)


def _problem(
    setting: Setting, trials: MeasurementTrials, rates: MeasurementRates, chance: float, gain: float
) -> search.SearchProblem:
    """The search's; under the margin rule scores are differences from the baseline's."""
    asked, margin = setting.asked.search, setting.rule == "margin"
    return search.SearchProblem(
        goal=Goal(trials.goal.intercept, 0.0) if margin else trials.goal,
        low=setting.low,
        high=setting.high,
        chance=-gain if margin else chance,
        noise=trials.noise,
        full=0.0 if margin else trials.fixed,
        scatter=trials.scatter(),
        start=asked.start,
        first=asked.dims,
        seed=setting.recipe.seed,
        resolution=asked.resolution,
        budget=BUDGET if asked.budget is None else max(1.0, asked.budget - rates.cost),
        parallel=asked.parallel,
        squares_above=setting.space.squares_above,
    )


def _notes(
    setting: Setting, trials: MeasurementTrials, rates: MeasurementRates, answer: Answer, doubts: Sequence[str], progress: Progress
) -> list[str]:  # fmt: skip
    """What is to know about the answer; what only shows now is said as well."""
    metric, within = setting.task.metric, setting.asked.search.within
    late = better_than_baseline(trials.points, trials.full_score, trials.noise, metric) if setting.base else []
    late += rates.look_again(answer.d90)
    failures = trials.describe_failures(answer.reported.failed) if answer.reported else []
    for note in (*late, *failures):
        progress.note(note)
    power = _power(trials, setting.task, within) if within is not None else []
    of_model = setting.runner.model(setting.recipe.seed).notes
    return [*setting.task.notes, *of_model, *rates.describe(), *doubts, *late, *power, *failures]


def _measurement(
    setting: Setting, trials: MeasurementTrials, rates: MeasurementRates, chance: Chance, answer: Answer
) -> Measurement:
    """The result, but for its definitions, command and test scores."""
    asked, found, reported = setting.asked.search, answer.found, answer.reported
    scores = tuple(trials.full[seed].score for seed in sorted(trials.full)) if setting.base else (trials.full_score,)
    whole = [result.seconds for result in trials.full.values()]
    return Measurement(
        model=setting.recipe.model,
        task=setting.recipe.task,
        method=str(setting.spec),
        metric=setting.task.metric,
        rule=setting.rule,
        fraction=asked.fraction,
        status=reported.status if reported else "trivial",
        d90=answer.d90,
        interval=reported.interval if reported else (None, None),
        D=setting.space.D,
        lambdas=setting.space.lambdas,
        baseline=trials.full_score,
        baseline_scores=scores,
        baseline_method=asked.baseline if isinstance(asked.baseline, str) else "a given number",
        majority=chance.majority,
        zero=chance.zero,
        threshold=answer.threshold,
        curve=trials.points,
        recipe=kept_of(trials.recipe),
        definitions={},
        seconds=trials.seconds,
        coverage=found.coverage if found else search.COVERAGE,
        sure=reported.sure if reported else None,
        noise=found.noise if found else None,
        failed=tuple((t.d or 0, t.projection_seed, t.training_seed) for t in found.failed) if found else (),
        within=asked.within,
        spent=(found.spent if found else 0.0) + rates.spent,
        spent_seconds=trials.seconds * len(whole) / math.fsum(whole) if whole else None,
        variance=None if setting.rule == "margin" else variance_shares(answer.trials),
        band=_band(setting, found),
    )


def _band(setting: Setting, found: search.SearchResult | None) -> tuple[tuple[float, float, float, float], ...]:
    """The fitted curve with its pointwise band, a factor of two around what was tried."""
    if found is None or found.posterior is None or setting.rule == "margin":
        return ()
    tried = [trial.d for trial in found.trials if trial.d is not None]
    ds = numpy.geomspace(max(setting.low, min(tried) / 2), min(setting.high, max(tried) * 2), 60)
    return tuple(found.posterior.band(ds.tolist(), found.coverage))


def _definitions(setting: Setting, rates: MeasurementRates, answer: Answer, deviation: float, notes: list[str]) -> Json:
    """What was counted, and of which data, model and versions."""
    return {
        "layer": setting.space.layer,
        "seeds": sorted({t.projection_seed for t in answer.trials} | {t.training_seed for t in answer.trials}),
        "resolution": setting.asked.search.resolution,
        "budget": setting.asked.search.budget or BUDGET,
        "validation": len(setting.task.validation),
        "loss_deviation": deviation,
        "notes": notes,
        "rates": rates.to_dict(),
        "truncated": setting.data.truncated,
        "task": setting.task.fingerprint,
        "base": setting.runner.model(setting.recipe.seed).fingerprint,
        **versions(),
    }


def _power(measurement_trials: MeasurementTrials, task: Task, within: float) -> list[str]:
    """How many examples the margin rule would need, in a line: too few, and no d can pass."""
    if len(measurement_trials.full) < 2 or measurement_trials.base is None:
        return []
    first, second = (
        measurement_trials.runner.predictions(replace(measurement_trials.base, seed=seed))
        for seed in sorted(measurement_trials.full)[:2]
    )
    pair = compare_paired(task.metric, first, second, task.paired_labels.numpy(), groups=task.grouping("validation"))
    need = examples_needed(pair.discordant, within / 100, deviation=pair.deviation)
    need = math.ceil(need * pair.n / pair.effective)
    return [
        f"two trials of the baseline differ on {pair.discordant:.1%} of the {pair.n} validation examples; a tune as good passes "
        f"within {within:g} points four times of five where there are {need:,}"
    ]
