"""compare(model, task, methods) -> Comparison: methods side by side, each at its own best learning rate.

For each method the rates of a small grid around its default are tried with the first seed; the best on the validation split
is kept, and a best one at the grid's edge widens the grid. The other seeds then train at that rate. The test split, where
the task has one, is only reported. Every trial is in the store as it ends.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import torch
from typing_extensions import Unpack

from d90.analysis.score_interval import (
    bootstrap_interval,
    clearly_above,
    combined_half_width,
    pooled_deviation,
    wilson_interval,
)
from d90.errors import InputError, TrainingFailed
from d90.methods import Counts, Spec, counts, parse
from d90.models.loading import Model
from d90.options import DEFAULT, CompareOptions, TaskOptions, TrainingOptions, with_options
from d90.options.studies import CompareFields
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.results.compare import Comparison, Entry
from d90.search.rules import scale_of
from d90.studies.cost import probe
from d90.tasks import Task
from d90.tasks.metrics import LOSS
from d90.training.failures import all_failed
from d90.training.loop import Data, context, open_task
from d90.training.progress import Progress
from d90.training.recipe import Recipe, default_lr, make_recipe
from d90.training.result import Forgotten, TrialResult
from d90.training.showing import shows_progress
from d90.training.weights import settle
from d90.trials.context import versions
from d90.trials.executor import together
from d90.trials.options import RunFields, RunOptions
from d90.trials.request import TrialRequest
from d90.trials.runner import TrialRunner, check_sendable
from d90.trials.store import digest

__all__ = ["AllCompareFields", "compare", "forgotten_over_seeds", "front"]

WIDEST = 2  # how often a best rate at the edge widens the grid


class AllCompareFields(CompareFields, TrainingFields, TaskFields, RunFields, total=False):
    """What `compare` takes as keywords besides its own parameters."""


@with_options
@shows_progress
def compare(
    model: str | Model,
    task: str | Task,
    methods: Sequence[str | Spec],
    *,
    options: CompareOptions = CompareOptions(),
    training: TrainingOptions = TrainingOptions(),
    data: TaskOptions = TaskOptions(),
    run: RunOptions = RunOptions(),
    **fields: Unpack[AllCompareFields],
) -> Comparison:
    """Train every method and put them side by side.

    Example:
        >>> found = d90.compare(model, task, ["full", "bitfit"], rates=[1], epochs=1, costs=False)
        >>> sorted(entry.method for entry in found.entries)
        ['bitfit', 'full']

    Args:
        model, task: as for `d90.train`.
        methods: in the grammar of `d90.methods`; all are put on the model once before the first is trained.
        options: seeds, rates to try, and whether costs are measured (`d90.studies.cost`).
        training: how every trial is trained; an `lr` that is a number, or "default", switches the tuning off.
        data: how the task's data is read.
        run: the store, the log, the executor and who is told.
        fields: those of the four as keywords, as seeds=3, epochs=2.

    Raises:
        InputError: what was wrong, what was expected, what to do.
        RunFailed: every trial of every method diverged, or memory did not suffice; a method of which that is true is left out.
    """
    progress, seeds = run.told, options.seeds
    rates = (1.0,) if training.lr == DEFAULT else tuple(options.rates)
    specs = _checked(methods, rates)
    check_sendable(run.executor, model, task)
    recipe = make_recipe(model, task, specs[0], training, data)
    opened = open_task(task, recipe, model)
    specs, weights, held = settle(training, methods, opened, model)
    recipe = replace(recipe, method=str(specs[0]), weights=weights)
    runner = TrialRunner(model, opened, recipe, run)
    numbers = [_counts(runner.data(recipe.seed), spec, recipe) for spec in specs]
    test = "test" in runner.task.splits
    progress.search_started(f"{len(specs)} methods on {recipe.task} with {recipe.model}")
    for note in (*runner.task.told, *([held] if held else [])):
        progress.note(note)
    runner.data(recipe.seed).note_truncation(progress)

    missed: list[str] = []

    def entry(index: int) -> Entry | TrainingFailed:
        spec = specs[index]
        progress.search_planned(f"{spec} ({index + 1} of {len(specs)})")
        mine = replace(make_recipe(model, task, spec, training, data), weights=weights)
        try:
            made, wrong = _entry(runner, spec, str(methods[index]), numbers[index], mine, seeds, rates, test)
        except TrainingFailed as error:
            return error
        missed.extend(wrong)
        return made

    found = together(run.executor, [partial(entry, index) for index in range(len(specs))])
    lost = _lost(found, progress)
    entries = [one for one in found if isinstance(one, Entry)]
    left = [spec for spec, one in zip(specs, found, strict=True) if isinstance(one, Entry)]
    if options.costs:
        progress.search_planned("time and memory of a step")
        measured = probe(runner.data(recipe.seed), left, recipe)
        entries = [replace(entry, cost=cost) for entry, cost in zip(entries, measured, strict=True)]
    part = "test" if test else "validation"
    chance = runner.constant_score(part)
    trials = [
        replace(make_recipe(model, task, spec, training, data), lr=entry.lr, weights=weights)
        for spec, entry in zip(left, entries, strict=True)
    ]
    result = Comparison(
        model=recipe.model,
        task=recipe.task,
        metric=runner.task.metric,
        split=part,
        chance=chance,
        seeds=seeds,
        entries=tuple(front(_with_intervals(runner, entries, trials, part), chance)),
        recipe={key: value for key, value in recipe.to_dict().items() if key not in ("method", "seed", "lr")},
        definitions={
            "rates": [round(rate, 6) for rate in rates],
            "seeds": list(range(recipe.seed, recipe.seed + seeds)),
            "task": runner.task.fingerprint,
            "base": runner.model(recipe.seed).fingerprint,
            "notes": [*runner.task.notes, *(f"left out: {error}" for error in lost), *missed],
            **versions(),
        },
        command=run.command,
    )
    asked_for = [list(map(str, specs)), recipe.model, recipe.task, seeds, list(rates), recipe.seed, result.recipe]
    runner.store.put_study(digest(asked_for), "compare", result.to_dict())
    runner.note(digest(asked_for))
    progress.search_ended(f"compared {len(specs)} methods")
    return result


def _checked(methods: Sequence[str | Spec], rates: Sequence[float]) -> list[Spec]:
    """The methods, each once.

    Raises:
        InputError: what was wrong, what was expected.
    """
    if not methods:
        raise InputError("got no methods, expected at least one, as in --methods 'full lora:r=8 bitfit'")
    if not rates or min(rates) <= 0:
        raise InputError(f"got rates={tuple(rates)}, expected positive factors such as 0.3, 1, 3")
    specs = [parse(method) if isinstance(method, str) else method for method in methods]
    twice = next((str(spec) for i, spec in enumerate(specs) if str(spec) in map(str, specs[:i])), None)
    if twice is not None:
        raise InputError(f"got '{twice}' twice among the methods, expected each once")
    return specs


def _lost(found: Sequence[Entry | TrainingFailed], progress: Progress) -> list[TrainingFailed]:
    """Why methods are left out.

    Raises:
        TrainingFailed: none is left.
    """
    lost = [one for one in found if isinstance(one, TrainingFailed)]
    for error in lost:
        progress.note(f"left out: {error}")
    if len(lost) == len(found):
        raise lost[0] if len(lost) == 1 else TrainingFailed(f"no method could be trained: {'; '.join(map(str, lost))}")
    return lost


def front(entries: Sequence[Entry], chance: float = -math.inf) -> list[Entry]:
    """Mark the Pareto front: the entries above chance that none with as few stored numbers or fewer beats."""
    return [
        replace(
            entry,
            front=clearly_above(entry.mean, entry.low, chance)
            and not any(
                other.stored <= entry.stored
                and other.mean >= entry.mean
                and (other.stored, -other.mean) != (entry.stored, -entry.mean)
                for other in entries
            ),
        )
        for entry in entries
    ]


def _with_intervals(runner: TrialRunner, entries: Sequence[Entry], trials: Sequence[Recipe], split: str) -> list[Entry]:
    """The entries with the intervals of their scores; `trials` are their first ones."""
    deviation, freedom = pooled_deviation([entry.scores for entry in entries])
    count, made = runner.task.independent(split), []
    for entry, trial in zip(entries, trials, strict=True):
        examples = _deviation_by_examples(runner, entry, trial, count)
        half = combined_half_width(examples, deviation, len(entry.scores), freedom)
        made.append(replace(entry, low=entry.mean - half, high=entry.mean + half) if half > 0 else entry)
    return made


def _deviation_by_examples(runner: TrialRunner, entry: Entry, trial: Recipe, count: int) -> float:
    """Standard deviation of a score over samples of `count` independent examples; 0 where it is not known, as of a loss."""
    task = runner.task
    if scale_of(task.metric).proportion:
        low, high = wilson_interval(entry.mean, count)
        return (high - low) / (2 * 1.959964)
    if task.metric == LOSS:
        return 0.0
    try:
        predicted = torch.from_numpy(runner.predictions(trial).copy())
    except LookupError:
        return 0.0
    labels = task.validation.labels
    if labels.dim() > 1 or len(predicted) != len(
        labels
    ):  # several numbers an example, as BLEU's counts, are stored in one row
        predicted = predicted.reshape(len(labels), -1)
    low, high = bootstrap_interval(
        lambda rows: task.kind.measure(task.metric, predicted[rows], labels[rows]), len(labels), draws=200,
        groups=task.grouping("validation"),
    )  # fmt: skip
    return (high - low) / (2 * 1.959964) * math.sqrt(task.independent("validation") / count)


def _entry(
    runner: TrialRunner,
    spec: Spec,
    asked: str,
    sizes: Counts,
    recipe: Recipe,
    seeds: int,
    rates: Sequence[float],
    test: bool,
) -> tuple[Entry, list[str]]:
    """(the method's row, a line where a trial of a further seed failed)."""
    seconds = 0.0
    tried: dict[float, TrialResult] = {}

    def run(lrs: Sequence[float], seeds: Sequence[int]) -> list[TrialResult]:
        nonlocal seconds
        asks = [TrialRequest(spec, replace(recipe, lr=lr, seed=seed), test=test) for lr in lrs for seed in seeds]
        results = runner.run(asks)
        seconds += sum(result.seconds for result in results)
        return results

    usual = default_lr(spec, runner.task.kind)
    grid = [recipe.lr] if recipe.lr is not None else sorted(float(f"{usual * factor:.2g}") for factor in rates)
    tried.update(zip(grid, run(grid, [recipe.seed]), strict=True))

    def best_rate() -> float:
        # whatever a trial scored before it diverged, its rate is the last choice
        return max(tried, key=lambda lr: (not tried[lr].failed, tried[lr].score, -lr))

    best = best_rate()
    for _ in range(WIDEST if len(grid) > 1 else 0):
        ratio = grid[1] / grid[0]
        if best not in (min(tried), max(tried)):
            break
        lr = float(f"{best * ratio if best == max(tried) else best / ratio:.2g}")
        (tried[lr],) = run([lr], [recipe.seed])
        best = best_rate()
    if tried[best].failed:
        raise all_failed(f"every trial of {spec}", list(tried.values()), auto=False)
    others = range(recipe.seed + 1, recipe.seed + seeds)
    made = {recipe.seed: tried[best], **dict(zip(others, run([best], others), strict=True))}
    wrong = [seed for seed, result in made.items() if result.failed]
    results = [result for result in made.values() if not result.failed]
    row = Entry(
        method=str(spec),
        asked=asked,
        lr=best,
        rates=tuple((lr, tried[lr].score) for lr in sorted(tried) if not tried[lr].failed),
        validation=tuple(result.score for result in results),
        test=tuple(result.test for result in results if result.test is not None) if test else (),
        seconds=seconds,
        forgetting=forgotten_over_seeds(results),
        **asdict(sizes),
    )
    return row, [f"{spec} at {best:g}, seed {seed}: {made[seed].status}, so not among its scores" for seed in wrong]


def forgotten_over_seeds(results: Sequence[TrialResult]) -> tuple[Forgotten, ...]:
    """What trials of several seeds forgot: means; the error is that over the examples, which they share, and that over the seeds."""
    found = []
    for each in zip(*(result.forgetting for result in results), strict=True):
        means = [one.mean for one in each]
        spread = statistics.variance(means) / len(means) if len(means) > 1 else 0.0
        error = math.sqrt(statistics.fmean(one.error**2 for one in each) + spread)
        found.append(replace(each[0], mean=statistics.fmean(means), error=error))
    return tuple(found)


def _counts(data: Data, spec: Spec, recipe: Recipe) -> Counts:
    """Put a method on the model and take it off again: what it costs in numbers, and whether it fits at all."""
    applied = spec.method.apply(data.model.module, context(data, recipe))
    try:
        return counts(spec, applied)
    finally:
        applied.remove()
