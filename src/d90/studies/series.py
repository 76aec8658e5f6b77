"""trajectory(checkpoints, tasks), family(models, tasks): d90 of several models on several tasks, one study.

    trajectory   d90 along a pretraining run (Aghajanyan et al. 2021, section 4.2, figure 2)
    family       d90 against the number of weights (section 4.3, figure 3)

The target is one for all models by default: that of the last model of the list, or of the last that can be trained. With each
model's own target d90 can rise along a run because the target does, so both are measured where asked. A model that does not
load, or does not train, is a failed row.
"""

from __future__ import annotations

import os
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from typing_extensions import Unpack

from d90.errors import D90Error, InputError, TrainingFailed
from d90.methods import Spec, parse
from d90.models.loading import load, split_revision
from d90.options import AUTO, SearchOptions, SeriesOptions, TaskOptions, TrainingOptions, with_options
from d90.options.search import SearchFields
from d90.options.studies import SeriesFields
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.results.measure import Measurement
from d90.results.series import Cell, Series
from d90.search.rules import choose_rule
from d90.studies.measure import measure
from d90.studies.measurement_setting import Asked, settled
from d90.tasks import load as load_task
from d90.tasks.metrics import to_display
from d90.training.recipe import suited
from d90.training.showing import shows_progress
from d90.trials.context import versions
from d90.trials.executor import together
from d90.trials.options import RunFields, RunOptions
from d90.trials.store import Store, digest

__all__ = ["AllSeriesFields", "family", "step_of", "trajectory"]

_LAST, _OWN = SeriesOptions(), SeriesOptions(target="own")


class AllSeriesFields(SeriesFields, SearchFields, TrainingFields, TaskFields, RunFields, total=False):
    """What `trajectory` and `family` take as keywords besides their own parameters."""


@dataclass(frozen=True)
class Question:
    """What a series asks: `xs` are the models' places on the axis, called `xlabel`."""

    kind: str
    xlabel: str
    models: tuple[str, ...]
    xs: tuple[int, ...]
    tasks: tuple[str, ...]
    spec: Spec
    method: str | Spec  # as it was given: of a language model a text leaves targets open
    options: SeriesOptions
    search: SearchOptions
    training: TrainingOptions
    data: TaskOptions

    @property
    def given(self) -> dict[str, str]:
        """The options that are not at their defaults, as they are stored with the result."""
        found = {**self.search.to_dict(), **self.training.to_dict(), **self.data.to_dict()}
        return {name: str(value) for name, value in found.items()}

    @property
    def key(self) -> str:
        """Of what was asked."""
        asked = [self.kind, self.models, self.tasks, str(self.spec), self.options.target, self.given]
        return digest(asked)


@with_options
@shows_progress
def trajectory(
    models: Sequence[str],
    tasks: Sequence[str],
    method: str | Spec = "full",
    *,
    options: SeriesOptions = _LAST,
    search: SearchOptions = SearchOptions(),
    training: TrainingOptions = TrainingOptions(lr=AUTO),
    data: TaskOptions = TaskOptions(),
    run: RunOptions = RunOptions(),
    **fields: Unpack[AllSeriesFields],
) -> Series:
    """d90 of each checkpoint; its step is the last number in its name: a folder `step-4000`, a hub's branch `owner/model@step4000`.

    A k or M behind the number counts (`step_20k`); of a name with a revision the number is looked for in the revision.

    Example:
        >>> found = d90.trajectory(models, [text_task], rule="gain", lr=0.01, epochs=1, budget=2, start=32)
        >>> [cell.x for cell in found.cells]
        [0, 10]

    Args:
        models: checkpoints, the last one's target counts for all.
        tasks, method: as for `measure`.
        options: the target: "last", "own" or "both".
        search, training, data, run: as for `measure`.
        fields: those of the five as keywords, as target="both", budget=12.

    Raises:
        InputError: as `measure`, where no model can be measured; fewer than two checkpoints, or one without a number in its name.
    """
    steps = tuple(step_of(name) for name in models)
    spec = parse(method) if isinstance(method, str) else method
    named = ("trajectory", "pretraining step", tuple(models), steps, tuple(tasks), spec, method)
    return _series(Question(*named, options, search, training, data), run)


def step_of(name: str) -> int:
    """The pretraining step in a checkpoint's name.

    Raises:
        InputError: there is no number in it.
    """
    revision = split_revision(name)[1]
    numbers = re.findall(r"(\d+)([kKmM]?)(?![a-zA-Z])", revision or os.path.basename(name.rstrip("/")))
    if not numbers:
        raise InputError(
            f"checkpoint '{name}' has no number in its name, expected its pretraining step, as in step-4000 or owner/model@step4000; "
            "rename the folder"
        )
    number, unit = numbers[-1]
    return int(number) * {"": 1, "k": 1000, "m": 1_000_000}[unit.lower()]


@with_options
@shows_progress
def family(
    models: Sequence[str],
    tasks: Sequence[str],
    method: str | Spec = "full",
    *,
    options: SeriesOptions = _OWN,
    search: SearchOptions = SearchOptions(),
    training: TrainingOptions = TrainingOptions(lr=AUTO),
    data: TaskOptions = TaskOptions(),
    run: RunOptions = RunOptions(),
    **fields: Unpack[AllSeriesFields],
) -> Series:
    """d90 against the number of weights: of any models, each held to its own target by default.

    Example:
        >>> found = d90.family(models, [text_task], rule="gain", lr=0.01, epochs=1, budget=2, start=32)
        >>> found.xlabel
        'weights of the model'

    Args:
        models: any names.
        tasks: names or tasks; every model is measured on each.
        method, search, training, data, run: as for `measure`.
        options: the target: "last", "own" or "both".
        fields: those of the five as keywords, as target="both", budget=12.

    Raises:
        InputError: as `measure`, where no model can be measured; fewer than two models.
    """
    sizes = []
    for name in models:
        try:
            sizes.append(sum(p.numel() for p in load(name, 2).module.parameters()))
        except D90Error:
            sizes.append(0)  # its row says why
    spec = parse(method) if isinstance(method, str) else method
    named = ("family", "weights of the model", tuple(models), tuple(sizes), tuple(tasks), spec, method)
    return _series(Question(*named, options, search, training, data), run)


def _series(question: Question, run: RunOptions) -> Series:
    if len(question.models) < 2 or not question.tasks:
        counts = f"{len(question.models)} models and {len(question.tasks)} tasks"
        raise InputError(f"got {counts}, expected at least two models and one task")
    # what is wrong with a task is wrong for every model: before hours of work
    columns: Mapping[str, Any] = question.data.columns
    opened = [load_task(task, **columns) for task in question.tasks]
    asked = question.search
    rules = sorted(
        {choose_rule(asked.rule, metric, asked.fraction, asked.within) for metric in [task.metric for task in opened]}
    )
    measurements = _Measurements(question, replace(run, store=run.open_store(), progress=run.listener))
    of_tasks = together(run.executor, [partial(measurements.of_task, task) for task in question.tasks])
    givers = {task: gives[0] for task, (gives, _) in zip(question.tasks, of_tasks, strict=True) if gives}
    cells = [cell for _, made in of_tasks for cell in made]
    if all(cell.status == "failed" for cell in cells):
        error = TrainingFailed if measurements.untrained else InputError
        raise error(f"none of the {len(question.models)} models could be measured: {cells[-1].error}")
    store = measurements.run.open_store()
    cells = _with_own_scores(cells, question, store)
    definitions = {"target": question.options.target, "options": question.given, **versions()}
    rule, spec = " and ".join(rules), str(suited(question.method, opened[0].kind))
    result = Series(question.kind, spec, rule, question.xlabel, tuple(cells), definitions, run.command, givers)
    store.put_study(question.key, question.kind, result.to_dict())
    return result


class _Measurements:
    """The measurements of a series; `untrained` are models whose training failed."""

    def __init__(self, question: Question, run: RunOptions) -> None:
        self.question, self.run = question, run
        self.untrained: list[str] = []

    def of_task(self, task: str) -> tuple[tuple[str, float] | None, list[Cell]]:
        """(the model whose target counts for all and its score, a cell for each model and target) of one task."""
        question = self.question
        gives = self._giver(task) if question.options.target in ("last", "both") else None
        shared = gives[1] if gives else None
        pairs = zip(question.models, question.xs, strict=True)
        calls = [partial(self._cells, model, x, task, shared) for model, x in pairs]
        return gives, [cell for made in together(self.run.executor, calls) for cell in made]

    def _measured(self, model: str, task: str, baseline: float | None = None) -> Measurement:
        one = self.question
        search = one.search if baseline is None else replace(one.search, baseline=baseline)
        return measure(model, task, one.method, search=search, training=one.training, data=one.data, run=self.run)

    def _giver(self, task: str) -> tuple[str, float] | None:
        """The model whose target counts for all, and its full score: the last, or where it cannot be trained the one before it."""
        for name in reversed(self.question.models):
            try:
                found = self._measured(name, task)
                return name, to_display(found.baseline, found.metric)
            except (D90Error, TrainingFailed) as error:
                self.run.listener.note(
                    f"{name} on {task}: {error}. Its score cannot be the target for all; the model before it is asked"
                )
        return None

    def _cells(self, model: str, x: int, task: str, shared: float | None) -> list[Cell]:
        """A model's cells on one task: one for each target."""
        made = []
        target = self.question.options.target
        for wanted in ("last", "own") if target == "both" else (target,):
            given = shared if wanted == "last" else None
            try:
                found = self._measured(model, task, given)
                own = found.baseline if given is None else None
                made.append(_cell(found, model, task, x, wanted, own))
            except (D90Error, TrainingFailed) as error:
                self.run.listener.note(f"{model} on {task}: {error}")
                if isinstance(error, TrainingFailed):
                    self.untrained.append(model)
                failed: tuple[int | None, int | None] = (None, None)
                made.append(Cell(model, task, x, wanted, "failed", None, failed, None, None, None, str(error)))
        return made


def _with_own_scores(cells: Sequence[Cell], question: Question, store: Store) -> list[Cell]:
    """The cells, those that were held to another model's target with their own full score where it is known."""
    own = {(cell.model, cell.task): cell.score for cell in cells if cell.score is not None}
    return [
        replace(cell, score=own.get((cell.model, cell.task), _full(cell.model, cell.task, store, question)))
        if cell.score is None and cell.status != "failed"
        else cell
        for cell in cells
    ]


def _full(model: str, task: str, store: Store, question: Question) -> float | None:
    """The model's own full score where the store has it, of whole runs with these options; it is not trained for a figure alone.

    Where its rate was searched, the runs at the best of the rates count.
    """
    search = question.search
    search = search if isinstance(search.baseline, str) else replace(search, baseline="full")
    asked = Asked.of(search, question.training, question.data)
    recipe = settled(model, task, question.method, asked).base
    assert recipe is not None
    free = ("seed", "lr") if asked.baseline_lr == AUTO else ("seed",)
    scores = defaultdict[float | None, list[float]](list)
    for trial in store.trials():
        alike = replace(trial.recipe, **{name: getattr(recipe, name) for name in free})
        if trial.status != "read" and alike == recipe:
            scores[trial.recipe.lr].append(trial.score)
    return max(map(statistics.fmean, scores.values()), default=None)


def _cell(found: Measurement, model: str, task: str, x: int, target: str, own: float | None) -> Cell:
    scores = own, found.threshold, found.chance
    return Cell(model, task, x, target, found.status, found.d90, found.interval, *scores, metric=found.metric)
