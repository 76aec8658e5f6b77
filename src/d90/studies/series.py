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
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from d90.errors import D90Error, InputError, TrainingFailed, unknown_name
from d90.methods import Spec, parse
from d90.models.loading import load, split_revision
from d90.results.measure import Measurement
from d90.results.series import Cell, Series
from d90.search.rules import choose_rule
from d90.studies.measure import measure
from d90.tasks import load as load_task
from d90.tasks.metrics import to_display
from d90.training.progress import Progress
from d90.training.rates import AUTO, parse_rate
from d90.training.recipe import Recipe
from d90.trials.executor import Executor, together
from d90.trials.runner import versions
from d90.trials.store import Store, digest

__all__ = ["TARGETS", "family", "step_of", "trajectory"]

TARGETS = ("last", "own", "both")


def trajectory(models: Sequence[str], tasks: Sequence[str], method: str | Spec = "full", **options: Any) -> Series:
    """d90 of each checkpoint; its step is the last number in its name: a folder `step-4000`, a hub's branch `owner/model@step4000`.

    A k or M behind the number counts (`step_20k`); of a name with a revision the number is looked for in the revision.

    Args:
        models: checkpoints, the last one's target counts for all.
        tasks, method: as for `measure`.
        options: `target` ("last", "own", "both"), `store`, `progress`, `command`, `log`, `executor`, and what `measure` takes.

    Raises:
        InputError: as `measure`, where no model can be measured; fewer than two checkpoints, or one without a number in its name.
    """
    steps = [step_of(name) for name in models]
    return _series("trajectory", "pretraining step", models, steps, tasks, method, **options)


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


def family(
    models: Sequence[str], tasks: Sequence[str], method: str | Spec = "full", *, target: str = "own", **options: Any
) -> Series:
    """d90 against the number of weights. Arguments and errors as of `trajectory`; any names will do, and each model has its own target."""
    sizes = []
    for name in models:
        try:
            sizes.append(sum(p.numel() for p in load(name, 2).module.parameters()))
        except D90Error:
            sizes.append(0)  # its row says why
    return _series("family", "weights of the model", models, sizes, tasks, method, target=target, **options)


def _series(
    kind: str,
    xlabel: str,
    models: Sequence[str],
    xs: Sequence[int],
    tasks: Sequence[str],
    method: str | Spec,
    *,
    target: str = "last",
    store: str | os.PathLike[str] | Store = "runs/d90.sqlite",
    progress: Progress | None = None,
    command: str = "",
    executor: Executor | None = None,
    **options: Any,
) -> Series:
    progress = progress or Progress()
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    if len(models) < 2 or not tasks:
        raise InputError(f"got {len(models)} models and {len(tasks)} tasks, expected at least two models and one task")
    keep = store if isinstance(store, Store) else Store(store)
    spec = parse(method) if isinstance(method, str) else method
    # what is wrong with a task is wrong for every model: before hours of work
    metrics = [load_task(task, **options.get("columns", {})).metric for task in tasks]
    share, within = options.get("fraction", 0.9), options.get("within")
    rules = sorted({choose_rule(options.get("rule"), metric, share, within) for metric in metrics})

    def measured(model: str, task: str, baseline: float | None = None) -> Measurement:
        given = options if baseline is None else {**options, "baseline": baseline}
        return measure(model, task, spec, store=keep, progress=progress, command=command, executor=executor, **given)

    def giver(task: str) -> tuple[str, float] | None:
        """The model whose target counts for all, and its full score: the last, or where it cannot be trained the one before it."""
        for name in reversed(models):
            try:
                found = measured(name, task)
                return name, to_display(found.baseline, found.metric)
            except (D90Error, TrainingFailed) as error:
                progress.note(
                    f"{name} on {task}: {error}. Its score cannot be the target for all; the model before it is asked"
                )
        return None

    untrained: list[str] = []

    def cells_of(model: str, x: int, task: str, shared: float | None) -> list[Cell]:
        made = []
        for wanted in ("last", "own") if target == "both" else (target,):
            given = shared if wanted == "last" else None
            try:
                found = measured(model, task, given)
                own = found.baseline if given is None else None
                made.append(_cell(found, model, task, x, wanted, own))
            except (D90Error, TrainingFailed) as error:
                progress.note(f"{model} on {task}: {error}")
                if isinstance(error, TrainingFailed):
                    untrained.append(model)
                failed: tuple[int | None, int | None] = (None, None)
                made.append(Cell(model, task, x, wanted, "failed", None, failed, None, None, None, str(error)))
        return made

    def of_task(task: str) -> tuple[tuple[str, float] | None, list[Cell]]:
        gives = giver(task) if target in ("last", "both") else None
        shared = gives[1] if gives else None
        calls = [partial(cells_of, model, x, task, shared) for model, x in zip(models, xs, strict=True)]
        return gives, [cell for made in together(executor, calls) for cell in made]

    of_tasks = together(executor, [partial(of_task, task) for task in tasks])
    givers = {task: gives[0] for task, (gives, _) in zip(tasks, of_tasks, strict=True) if gives}
    cells = [cell for _, made in of_tasks for cell in made]
    if all(cell.status == "failed" for cell in cells):
        error = TrainingFailed if untrained else InputError
        raise error(f"none of the {len(models)} models could be measured: {cells[-1].error}")
    own_scores = {(c.model, c.task): c.score for c in cells if c.score is not None}
    cells = [
        replace(c, score=own_scores.get((c.model, c.task), _full(c.model, c.task, keep, options)))
        if c.score is None and c.status != "failed"
        else c
        for c in cells
    ]
    definitions = {"target": target, "options": {key: str(value) for key, value in options.items()}, **versions()}
    result = Series(kind, str(spec), " and ".join(rules), xlabel, tuple(cells), definitions, command, givers)
    asked = [kind, list(models), list(tasks), str(spec), target, definitions["options"]]
    keep.put_study(digest(asked), kind, result.to_dict())
    return result


def _full(model: str, task: str, store: Store, options: dict[str, Any]) -> float | None:
    """The model's own full score where the store has it, of whole runs with these options; it is not trained for a figure alone.

    Where its rate was searched, the runs at the best of the rates count.
    """
    given = options.get("baseline_lr")
    searched = parse_rate(options.get("lr", AUTO)) == AUTO if given is None else parse_rate(given) == AUTO
    wanted = {key: value for key, value in options.items() if key in Recipe.__dataclass_fields__}
    wanted |= {"model": model, "task": task, "method": str(parse(str(options.get("baseline", "full"))))}
    wanted |= {
        "lr": None if searched else parse_rate(given),
        "epochs": options.get("baseline_epochs") or wanted.get("epochs", 3),
    }
    wanted = {key: value for key, value in wanted.items() if value is not None}
    scores = defaultdict[Any, list[float]](list)
    for trial in store.trials():
        if trial.status != "read" and all(trial.recipe.get(key) == value for key, value in wanted.items()):
            scores[trial.recipe.get("lr") if searched else given].append(trial.score)
    return max(map(statistics.fmean, scores.values()), default=None)


def _cell(found: Measurement, model: str, task: str, x: int, target: str, own: float | None) -> Cell:
    scores = own, found.threshold, found.chance
    return Cell(model, task, x, target, found.status, found.d90, found.interval, *scores, metric=found.metric)
