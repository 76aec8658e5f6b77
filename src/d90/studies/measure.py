"""measure(model, task) -> Measurement: full fine-tuning, the threshold, and the smallest d that reaches it, with an interval.

The rules are in `d90.search.rules`, the search in `d90.search`. d90 is where the mean score over seeds, of P and of training, on
this validation split reaches the threshold of the mean full score; the interval says how well that is known.

Every trial is in the store as it ends; asked again, or after a kill, a measurement repeats none of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy

from d90 import search
from d90.analysis.paired import compare_paired, examples_needed
from d90.errors import InputError
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.results.measure import Measurement
from d90.search.noise import expected_noise
from d90.search.rules import RULES, Goal, choose_rule, goal
from d90.search.variance import variance_shares
from d90.studies.measurement_rates import MeasurementRates, baseline_doubts, better_than_baseline
from d90.studies.measurement_trials import MeasurementTrials
from d90.subspace import layout, support
from d90.tasks import Task
from d90.tasks.metrics import to_display
from d90.training.loop import Data, context, open_task
from d90.training.progress import Progress
from d90.training.rates import AUTO, parse_rate
from d90.training.recipe import Recipe, make_recipe
from d90.trials.executor import Executor
from d90.trials.runner import TrialRunner, check_sendable, versions
from d90.trials.store import Store, digest

__all__ = ["RULES", "measure"]

SMALL_BUDGET = 7.0  # below it intervals are wide


def measure(
    model: str | Model,
    task: str | Task,
    method: str | Spec = "full",
    *,
    rule: str | None = None,
    fraction: float = 0.9,
    within: float | None = None,
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    full_curve: bool = False,
    prune: bool = True,
    test: bool = False,
    dims: Sequence[int] = (),
    low: int | None = None,
    high: int | None = None,
    start: int = 4096,
    resolution: float = 1.25,
    budget: float = 9.0,
    parallel: int = 1,
    seeds: int = 2,
    baseline: str | float = "full",
    lr: float | str | None = AUTO,
    baseline_lr: float | str | None = None,
    baseline_epochs: float | None = None,
    command: str = "",
    log: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Measurement:
    """Measure d90 of `method`'s space for `model` on `task`.

    Args:
        model, task: as for `d90.train`.
        method: what moves and, behind "@", the kind of subspace (without d): "full@structure=said".
        rule, fraction, within: how the threshold is made (`d90.search.rules`); by default the paper's rule, the gain rule for
            a correlation or a loss, the margin rule where `within` is given, in points.
        store: path of the SQLite store, or an open one.
        full_curve: train every trial to its end instead of stopping it once it passes or is hopeless.
        hopeless: give trials up whose learning curve says that they will fail.
        test: report scores on the test split, at d90 and of the baseline; where the task has none, one is made from training
            examples, which are then not trained on.
        dims: values of d to try besides, for a curve.
        low, high: the range of d; by default what the method allows.
        start: the first d.
        resolution, budget: the search ends when the interval's ends are within this ratio, or when this many full fine-tunings
            are spent, the baseline's included.
        parallel: how many trials the search asks for at once: with an executor they end sooner, and tell it a little less each.
        seeds: under the margin rule, how many trials of the baseline the others are paired with.
        baseline: the method whose score counts as full, or a number (Li et al.'s global baseline of 1.0; of a loss, the loss).
        lr: the trials' learning rate: a number; "auto": found at the first d by short runs (`d90.training.rates`), whose cost counts
            in the budget, and looked at again at the answer; None: the default of the method and kind of model.
        baseline_lr, baseline_epochs: of the baseline; by default found as well where `lr` is "auto", else its method's default, and
            the trials' epochs.
        command: the command line that asked, kept with the result.
        log: a file that gets one JSON line for each trial trained, as it ends.
        progress: is told what happens.
        executor: where trials run, if not here: `d90.trials.local.Local`, `d90.trials.cluster.Cluster`.
        options: fields of `Recipe` for every trial.

    Raises:
        InputError: what was wrong, what was expected, what to do.
        StoreError, RunFailed: the store cannot be used; every trial diverged, or memory did not suffice for any.
    """
    progress = progress or Progress()
    for name, value in (("seeds", seeds), ("resolution", resolution), ("budget", budget), ("parallel", parallel)):
        if not value >= 1:
            raise InputError(f"got {name}={value}, expected at least 1")
    check_sendable(executor, model, task)
    spec = parse(method) if isinstance(method, str) else method
    lr = parse_rate(lr)
    baseline_lr = parse_rate(baseline_lr) if baseline_lr is not None else AUTO if lr == AUTO else None
    options["lr"] = None if lr == AUTO else lr
    recipe = make_recipe(model, task, spec, options)
    opened = open_task(task, recipe, model)
    if test and "test" not in opened.splits:
        recipe = replace(recipe, columns={**recipe.columns, "test": "made"})
        opened = open_task(task, recipe, model)
    rule = choose_rule(rule, opened.metric, fraction, within)
    if rule == "margin" and not isinstance(baseline, str):
        raise InputError(
            f"got baseline={baseline} for the margin rule, expected a method: examples are compared one by one"
        )
    runner = TrialRunner(
        model, opened, recipe, store if isinstance(store, Store) else Store(store), progress, log, executor
    )
    least, most, m, definition = _limits(runner.data(recipe.seed), spec, recipe)
    low, high = max(least, low or least), min(most, high or most)
    for d in dims:
        if not low <= d <= high:
            raise InputError(
                f"got d={d}, expected {low} <= d <= {high} for {spec} on this model ({m} lambdas, D={most})"
            )
    asked: list[Any] = [
        str(spec), recipe.model, recipe.task, rule, fraction, str(baseline), seeds, full_curve, _kept(recipe) | {"lr": lr}, recipe.seed,
    ]  # fmt: skip
    progress.search_started(f"d90 of {recipe.model} on {recipe.task}, {spec}")
    for note in opened.told:
        progress.note(note)
    runner.data(recipe.seed).note_truncation(progress)

    zero, majority = runner.zero_score(), runner.constant_score()
    chance = max(majority, zero)
    epochs = baseline_epochs or recipe.epochs
    base = None
    if isinstance(baseline, str):
        base = make_recipe(model, task, parse(baseline), options)
        given = baseline_lr if isinstance(baseline_lr, float) else None
        base = replace(base, lr=given, epochs=epochs, columns=recipe.columns)
    wanted = goal(rule, chance, fraction, within)
    measurement_trials = MeasurementTrials(
        runner, spec, recipe, base,
        steps=replace(recipe, epochs=epochs).steps(len(opened.train)),
        goal=wanted,
        fixed=None if base else to_display(float(baseline), opened.metric),
        stops=not full_curve,
        gives_up=prune,
        references=seeds if rule == "margin" else 0,
        noise=0.0,
    )  # fmt: skip
    references = range(recipe.seed, recipe.seed + (seeds if rule == "margin" else 1)) if base else ()
    rates = MeasurementRates(measurement_trials, lr, baseline_lr, progress)
    rates.find_baseline()
    if references:
        measurement_trials.run_full(references)
    # of the first trials alone: resumed, the search must go on with the same scale
    gain = max(measurement_trials.full_score - chance, 1e-3)
    deviation = runner.loss_deviation()
    measurement_trials.noise = expected_noise(opened.metric, len(opened.validation), chance + gain, chance, deviation)
    doubts = list[str]()
    if base:
        curve = measurement_trials.full[recipe.seed]["curve"]
        doubts = baseline_doubts(curve, chance, measurement_trials.noise, auto=baseline_lr == AUTO)
    for doubt in doubts:  # before anything is spent on d
        progress.note(doubt)
    threshold = wanted.at(measurement_trials.full_score)
    if threshold > chance:
        rates.find(start, low, high)
    runner.study = digest([*asked, within] if within is not None else asked)
    measurement_trials.begin()
    runner.note(runner.study)
    own, others = measurement_trials.stored()
    levels = (f"{to_display(value, opened.metric):.4f}" for value in (measurement_trials.full_score, threshold, chance))
    progress.search_planned("baseline {}, threshold {} ({rule} rule), chance {}".format(*levels, rule=rule))
    if budget < SMALL_BUDGET:
        progress.note(
            f"a budget of {budget:g} leaves a wide interval; expected 7 or more for ends within a factor of two"
        )

    problem = search.SearchProblem(
        goal=Goal(wanted.intercept, 0.0) if rule == "margin" else wanted,
        low=low,
        high=high,
        chance=chance if rule != "margin" else -gain,
        noise=measurement_trials.noise,
        full=0.0 if rule == "margin" else measurement_trials.fixed,
        scatter=measurement_trials.scatter(),
        start=start,
        first=tuple(dims),
        seed=recipe.seed,
        resolution=resolution,
        budget=max(1.0, budget - rates.spent - rates.reserved),
        parallel=parallel,
    )
    found = None
    if threshold > chance:
        found = search.search(
            measurement_trials.run, problem, own, others, progress.search_planned, measurement_trials.prefetch
        )
        threshold = wanted.at(measurement_trials.full_score)
        measurement_trials.check_some_went_right()
    else:
        coming = [search.NextTrial(d, recipe.seed, recipe.seed, True, "") for d in dims]
        measurement_trials.prefetch(coming)
        for asked_for in coming:
            measurement_trials.run(asked_for)
    status = found.status if found and threshold > chance else "trivial"
    d90 = found.d90 if found and status != "trivial" else None
    scores = (
        tuple(measurement_trials.full[seed]["score"] for seed in sorted(measurement_trials.full))
        if base
        else (measurement_trials.full_score,)
    )
    tested = measurement_trials.test(d90) if test and d90 is not None else (None, None)
    trials = found.trials if found else ()
    seconds_full = [outcome["seconds"] for outcome in measurement_trials.full.values()]
    points, full_score = measurement_trials.points, measurement_trials.full_score
    late = better_than_baseline(points, full_score, measurement_trials.noise, opened.metric) if base else []
    late += rates.look_again(d90)
    for note in late:
        progress.note(note)
    notes = [
        *opened.notes,
        *runner.model(recipe.seed).notes,
        *rates.describe(),
        *doubts,
        *late,
        *(_power(measurement_trials, opened, within) if within is not None else ()),
    ]
    if found and status != "trivial":
        for note in measurement_trials.describe_failures(found.failed):
            notes.append(note)
            progress.note(note)
    shares = variance_shares(trials) if rule != "margin" else None
    band: tuple[tuple[float, float, float, float], ...] = ()
    if found and found.posterior is not None and rule != "margin":
        tried = [trial.d for trial in trials if trial.d is not None]
        ds = numpy.geomspace(max(low, min(tried) / 2), min(high, max(tried) * 2), 60)
        band = tuple(found.posterior.band(ds.tolist(), found.coverage))
    result = Measurement(
        model=recipe.model,
        task=recipe.task,
        method=str(spec),
        metric=opened.metric,
        rule=rule,
        fraction=fraction,
        status=status,
        d90=d90,
        interval=found.interval if found and status != "trivial" else (None, None),
        D=most,
        lambdas=m,
        baseline=measurement_trials.full_score,
        baseline_scores=scores,
        baseline_method=baseline if isinstance(baseline, str) else "a given number",
        majority=majority,
        zero=zero,
        threshold=threshold,
        curve=measurement_trials.points,
        recipe=_kept(measurement_trials.recipe),
        definitions={
            "layer": definition,
            "seeds": sorted({t.projection_seed for t in trials} | {t.training_seed for t in trials}),
            "resolution": resolution,
            "budget": budget,
            "validation": len(opened.validation),
            "loss_deviation": deviation,
            "notes": notes,
            "rates": rates.to_dict(),
            "truncated": runner.data(recipe.seed).truncated,
            "task": opened.fingerprint,
            "base": runner.model(recipe.seed).fingerprint,
            **versions(),
        },
        seconds=measurement_trials.seconds,
        command=command,
        coverage=found.coverage if found else search.COVERAGE,
        sure=found.sure if found and status != "trivial" else None,
        noise=found.noise if found else None,
        failed=tuple((t.d or 0, t.projection_seed, t.training_seed) for t in found.failed) if found else (),
        within=within,
        spent=(found.spent if found else 0.0) + rates.spent,
        spent_seconds=measurement_trials.seconds * len(seconds_full) / math.fsum(seconds_full)
        if seconds_full
        else None,
        variance=shares,
        band=band,
        test=tested[0],
        baseline_test=tested[1],
    )
    runner.store.put_study(runner.study, "measure", result.to_dict())
    progress.search_ended(str(result))
    return result


def _kept(recipe: Recipe) -> dict[str, Any]:
    """The recipe of every trial, but for method and seed."""
    return {key: value for key, value in recipe.to_dict().items() if key not in ("method", "seed")}


def _power(measurement_trials: MeasurementTrials, task: Task, within: float) -> list[str]:
    """How many examples the margin rule would need, in a line: too few, and no d can pass."""
    if len(measurement_trials.full) < 2 or measurement_trials.base is None:
        return []
    first, second = (
        measurement_trials.runner.predictions(replace(measurement_trials.base, seed=seed))
        for seed in sorted(measurement_trials.full)[:2]
    )
    pair = compare_paired(task.metric, first, second, task.validation.labels.numpy())
    need = examples_needed(pair.discordant, within / 100, deviation=pair.deviation)
    return [
        f"two trials of the baseline differ on {pair.discordant:.1%} of the {pair.n} validation examples; a tune as good passes "
        f"within {within:g} points four times of five where there are {need:,}"
    ]


def _limits(data: Data, spec: Spec, recipe: Recipe) -> tuple[int, int, int, str]:
    """(lowest d, D, number of lambdas, definition of a layer) of a method's space on a model."""
    space = spec.at(1).space
    if space is None:
        raise InputError("a measurement needs a subspace; expected a method with '@'")
    model = data.model
    applied = spec.method.apply(model.module, context(data, recipe))
    try:
        support.check_supported(model.module)
        named = layout.trainable(model.module)
        names = list(named)
        if space.options.head == "outside":
            outside = set(layout.head_tensors(model.module, names))
            names = [name for name in names if name not in outside]
        if space.options.structure != "said":
            return 1, sum(named[name].numel() for name in names), 0, "none (did)"
        layers, definition = layout.layer_of(model.module, names, space.options.layer)
        m = len(set(layers))
        return m + 1, sum(named[name].numel() for name in names), m, definition
    finally:
        applied.remove()
