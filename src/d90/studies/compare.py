"""compare(model, task, methods) -> Comparison: methods side by side, each at its own best learning rate.

For each method the rates of a small grid around its default are tried with the first seed; the best on the validation split
is kept, and a best one at the grid's edge widens the grid. The other seeds then train at that rate. The test split, where
the task has one, is only reported. Every trial is in the store as it ends.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
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
from d90.options.base import Weights
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
        run: the store, the log, the executor and who receives the events.
        fields: those of the four as keywords, as seeds=3, epochs=2.

    Raises:
        InputError: what was wrong, what was expected, what to do.
        RunFailed: every trial of every method diverged, or memory did not suffice; a method of which that is true is left out.
    """
    progress, asked = run.listener, _Question(model, task, options, training, data)
    specs = _checked(methods, asked.rates)
    check_sendable(run.executor, model, task)
    runner, specs, asked = _begun(asked, methods, specs, run)
    seed = training.seed
    sizes = [_counts(runner.data(seed), spec, asked.recipe_of(spec)) for spec in specs]
    columns = [
        _Column(runner, spec, str(method), size, asked.recipe_of(spec), options.seeds)
        for spec, method, size in zip(specs, methods, sizes, strict=True)
    ]

    places = [f"({index} of {len(specs)})" for index in range(1, len(specs) + 1)]
    calls = [partial(_row, *pair, asked.rates, progress) for pair in zip(columns, places, strict=True)]
    found = together(run.executor, calls)
    notes = [*_lost(found, progress), *(line for column in columns for line in column.missed)]
    entries = [one for one in found if isinstance(one, Entry)]
    left = [spec for spec, one in zip(specs, found, strict=True) if isinstance(one, Entry)]
    if options.costs:
        entries = _with_costs(runner.data(seed), entries, left, asked.recipe_of(specs[0]), progress)
    trials = [replace(asked.recipe_of(spec), lr=entry.lr) for spec, entry in zip(left, entries, strict=True)]
    result = _comparison(runner, asked, asked.recipe_of(specs[0]), list(zip(entries, trials, strict=True)), notes)
    key = digest(
        [list(map(str, specs)), result.model, result.task, options.seeds, list(asked.rates), seed, result.recipe]
    )
    runner.store.put_study(key, "compare", replace(result, command=run.command).to_dict())
    runner.note(key)
    progress.search_ended(f"compared {len(specs)} methods")
    return replace(result, command=run.command)


@dataclass(frozen=True)
class _Question:
    """What a comparison is asked for; `weights` is what the base's are held in, settled once the task is open."""

    model: str | Model
    task: str | Task
    options: CompareOptions
    training: TrainingOptions
    data: TaskOptions
    weights: Weights = "fp32"

    @property
    def rates(self) -> tuple[float, ...]:
        """Factors of the default rate to try."""
        return (1.0,) if self.training.lr == DEFAULT else tuple(self.options.rates)

    def recipe_of(self, spec: Spec) -> Recipe:
        """Of a method's trials."""
        recipe = make_recipe(self.model, self.task, spec, self.training, self.data)
        return replace(recipe, weights=self.weights)


def _begun(
    asked: _Question, methods: Sequence[str | Spec], specs: list[Spec], run: RunOptions
) -> tuple[TrialRunner, list[Spec], _Question]:
    """What trains the trials, the methods as they are meant for the task, and the question with its weights settled."""
    progress, model = run.listener, asked.model
    recipe = make_recipe(model, asked.task, specs[0], asked.training, asked.data)
    opened = open_task(asked.task, recipe, model)
    specs, weights, held = settle(asked.training, methods, opened, model)
    runner = TrialRunner(model, opened, replace(recipe, method=str(specs[0]), weights=weights), run)
    progress.search_started(f"{len(specs)} methods on {recipe.task} with {recipe.model}")
    for note in (*opened.shown_notes, *([held] if held else [])):
        progress.note(note)
    if recipe.lr is None:
        _note_trainings(len(specs), asked, progress)
    runner.data(recipe.seed).note_truncation(progress)
    return runner, specs, replace(asked, weights=weights)


def _note_trainings(methods: int, asked: _Question, progress: Progress) -> None:
    """Say how many trainings there will be, before the first."""
    rates, seeds = len(asked.rates), asked.options.seeds
    fewest = methods * (rates + seeds - 1)
    more = f", up to {WIDEST} further ones where the best lies at the edge" if rates > 1 else ""
    most = f" to {fewest + WIDEST * methods}" if rates > 1 else ""
    progress.note(
        f"{fewest}{most} trainings: {rates} learning rates for each of {methods} methods{more}, then the other seeds at the best"
    )


def _row(column: _Column, place: str, rates: Sequence[float], progress: Progress) -> Entry | TrainingFailed:
    """A method's row, or why it has none."""
    progress.search_planned(f"{column.spec.brief} {place}")
    try:
        return column.entry(rates)
    except TrainingFailed as error:
        return error


def _with_costs(
    data: Data, entries: Sequence[Entry], specs: Sequence[Spec], recipe: Recipe, progress: Progress
) -> list[Entry]:
    """The entries with the time and the memory of a step."""
    costs = probe(data, specs, recipe, note=progress.search_planned)
    return [replace(entry, cost=cost) for entry, cost in zip(entries, costs, strict=True)]


def _comparison(
    runner: TrialRunner, asked: _Question, recipe: Recipe, rows: Sequence[tuple[Entry, Recipe]], notes: Sequence[str]
) -> Comparison:
    """The result, but for its command.

    Args:
        recipe: of the first method that was asked for.
        rows: each with the recipe of its first trial.
    """
    task, seeds = runner.task, asked.options.seeds
    part = "test" if "test" in task.splits else "validation"
    chance = runner.constant_score(part)
    return Comparison(
        model=recipe.model,
        task=recipe.task,
        metric=task.metric,
        split=part,
        chance=chance,
        seeds=seeds,
        entries=tuple(front(_with_intervals(runner, rows, part), chance)),
        recipe={key: value for key, value in recipe.to_dict().items() if key not in ("method", "seed", "lr")},
        definitions={
            "rates": [round(rate, 6) for rate in asked.rates],
            "seeds": list(range(recipe.seed, recipe.seed + seeds)),
            "task": task.fingerprint,
            "base": runner.model(recipe.seed).fingerprint,
            "notes": [*task.notes, *notes],
            **versions(),
        },
    )


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


def _lost(found: Sequence[Entry | TrainingFailed], progress: Progress) -> list[str]:
    """Why methods are left out, a line each.

    Raises:
        TrainingFailed: none is left.
    """
    lost = [one for one in found if isinstance(one, TrainingFailed)]
    lines = [f"left out: {error}" for error in lost]
    for line in lines:
        progress.note(line)
    if len(lost) == len(found):
        raise lost[0] if len(lost) == 1 else TrainingFailed(f"no method could be trained: {'; '.join(map(str, lost))}")
    return lines


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


def _with_intervals(runner: TrialRunner, rows: Sequence[tuple[Entry, Recipe]], split: str) -> list[Entry]:
    """The entries with the intervals of their scores; each with the recipe of its first trial."""
    deviation, freedom = pooled_deviation([entry.scores for entry, _ in rows])
    count, made = runner.task.independent(split), []
    for entry, trial in rows:
        examples = deviation_by_examples(runner, entry, trial, count)
        half = combined_half_width(examples, deviation, len(entry.scores), freedom)
        made.append(replace(entry, low=entry.mean - half, high=entry.mean + half) if half > 0 else entry)
    return made


def deviation_by_examples(runner: TrialRunner, entry: Entry, trial: Recipe, count: int) -> float:
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


@dataclass
class _Column:
    """One method's trials.

    Attributes:
        asked, sizes: its text as given, and what it costs in numbers.
        recipe: of its trials, but for rate and seed.
        tried: what each rate gave with the first seed; `seconds`, of all trials; `missed`, a line where one of a further seed failed.
    """

    runner: TrialRunner
    spec: Spec
    asked: str
    sizes: Counts
    recipe: Recipe
    seeds: int
    tried: dict[float, TrialResult] = field(default_factory=dict)
    seconds: float = 0.0
    missed: list[str] = field(default_factory=list)

    def run(self, lrs: Sequence[float], seeds: Sequence[int]) -> list[TrialResult]:
        """Trials at every rate with every seed."""
        test = "test" in self.runner.task.splits
        recipes = [replace(self.recipe, lr=lr, seed=seed) for lr in lrs for seed in seeds]
        results = self.runner.run([TrialRequest(self.spec, one, test=test) for one in recipes])
        self.seconds += sum(result.seconds for result in results)
        return results

    @property
    def best(self) -> float:
        """The best rate tried; whatever a trial scored before it diverged, its rate is the last choice."""
        return max(self.tried, key=lambda lr: (not self.tried[lr].failed, self.tried[lr].score, -lr))

    def search(self, rates: Sequence[float]) -> None:
        """Try the rates of the grid, and further ones while the best lies at its edge.

        Raises:
            TrainingFailed: every trial failed.
        """
        usual, given, seed = default_lr(self.spec, self.runner.task.kind), self.recipe.lr, self.recipe.seed
        grid = [given] if given is not None else sorted(float(f"{usual * factor:.2g}") for factor in rates)
        self.tried = dict(zip(grid, self.run(grid, [seed]), strict=True))
        for _ in range(WIDEST if len(grid) > 1 else 0):
            ratio, best = grid[1] / grid[0], self.best
            if best not in (min(self.tried), max(self.tried)):
                break
            lr = float(f"{best * ratio if best == max(self.tried) else best / ratio:.2g}")
            (self.tried[lr],) = self.run([lr], [seed])
        if self.tried[self.best].failed:
            raise all_failed(f"every trial of {self.spec}", list(self.tried.values()), auto=False)

    def entry(self, rates: Sequence[float]) -> Entry:
        """The method's row: the best rate by the first seed, and the other seeds at that rate.

        Raises:
            TrainingFailed: every trial of the first seed failed.
        """
        self.search(rates)
        best, seed = self.best, self.recipe.seed
        others = range(seed + 1, seed + self.seeds)
        made = {seed: self.tried[best], **dict(zip(others, self.run([best], others), strict=True))}
        results = [result for result in made.values() if not result.failed]
        self.missed = [
            f"{self.spec} at {best:g}, seed {one}: {result.status}, so not among its scores"
            for one, result in made.items()
            if result.failed
        ]
        return Entry(
            method=str(self.spec),
            asked=self.asked,
            lr=best,
            rates=tuple((lr, self.tried[lr].score) for lr in sorted(self.tried) if not self.tried[lr].failed),
            validation=tuple(result.score for result in results),
            test=tuple(result.test for result in results if result.test is not None),
            seconds=self.seconds,
            forgetting=forgotten_over_seeds(results),
            **asdict(self.sizes),
        )


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
