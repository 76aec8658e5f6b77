"""trajectory(checkpoints, tasks), family(models, tasks): d90 of several models on several tasks, one study.

    trajectory   d90 along a pretraining run (Aghajanyan et al. 2021, section 4.2, figure 2)
    family       d90 against the number of weights (section 4.3, figure 3)

The target is one for all models by default: that of the last model of the list. With each model's own target d90 can rise
along a run because the target does, so both are measured where asked. A model that does not load is a failed row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from d90.errors import D90Error, InputError, choose
from d90.lab import versions
from d90.measure import Measurement, measure
from d90.methods import Spec, parse
from d90.models import load
from d90.progress import Progress
from d90.sweep.store import Store, hashed
from d90.tasks import load as load_task

__all__ = ["TARGETS", "Cell", "Series", "family", "trajectory"]

TARGETS = ("last", "own", "both")


@dataclass(frozen=True)
class Cell:
    """One model on one task.

    Attributes:
        model, task: as given.
        x: pretraining step of a trajectory, weights of a family.
        target: "last" or "own".
        status, d90, interval: of the measurement; "failed" with `error` where there is none.
        score: full fine-tuning's own score on this model.
        threshold, chance: what was to be reached, and what needs no training.
    """

    model: str
    task: str
    x: int
    target: str
    status: str
    d90: int | None
    interval: tuple[int | None, int | None]
    score: float | None
    threshold: float | None
    chance: float | None
    error: str = ""


@dataclass(frozen=True)
class Series:
    """A study of several models."""

    kind: str
    method: str
    rule: str
    xlabel: str
    cells: tuple[Cell, ...]
    definitions: dict[str, Any]
    command: str = ""

    def curve(self, task: str, target: str) -> list[tuple[int, int]]:
        """(x, d90) where d90 was found, by x."""
        chosen = [c for c in self.cells if (c.task, c.target) == (task, target) and c.d90 is not None]
        return sorted((c.x, c.d90) for c in chosen if c.d90 is not None)


def trajectory(models: Sequence[str], tasks: Sequence[str], method: str | Spec = "full", **options: Any) -> Series:
    """d90 of each checkpoint; its step is the last number in its name (a folder `step-4000`, a hub revision `model@step4000`).

    Args:
        models: checkpoints, the last one's target counts for all.
        tasks, method: as for `measure`.
        options: `target` ("last", "own", "both"), `store`, `progress`, `command`, `log`, and what `measure` takes.

    Raises:
        InputError: as `measure`; fewer than two checkpoints, or one without a number in its name.
    """
    steps = []
    for name in models:
        numbers = re.findall(r"\d+", os.path.basename(name.rstrip("/")))
        if not numbers:
            raise InputError(
                f"checkpoint '{name}' has no number in its name, expected its pretraining step, as in step-4000; rename the folder"
            )
        steps.append(int(numbers[-1]))
    return _series("trajectory", "pretraining step", models, steps, tasks, method, **options)


def family(models: Sequence[str], tasks: Sequence[str], method: str | Spec = "full", **options: Any) -> Series:
    """d90 against the number of weights. Arguments and errors as of `trajectory`; any names will do."""
    sizes = []
    for name in models:
        try:
            sizes.append(sum(p.numel() for p in load(name, 2).module.parameters()))
        except D90Error:
            sizes.append(0)  # its row says why
    return _series("family", "weights of the model", models, sizes, tasks, method, **options)


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
    **options: Any,
) -> Series:
    told = progress or Progress()
    if target not in TARGETS:
        raise choose("target", target, TARGETS)
    if len(models) < 2 or not tasks:
        raise InputError(f"got {len(models)} models and {len(tasks)} tasks, expected at least two models and one task")
    keep = store if isinstance(store, Store) else Store(store)
    spec = parse(method) if isinstance(method, str) else method
    for task in tasks:
        load_task(
            task, **options.get("columns", {})
        )  # what is wrong with a task is wrong for every model: before hours of work
    rule = options.get("rule", "paper")
    cells: list[Cell] = []
    for task in tasks:
        shared: float | None = None
        if target in ("last", "both"):
            # the one full score that decides for all; if this model fails, so does the study
            last = _measured(models[-1], task, spec, keep, told, command, options)
            shared = last.baseline
        for model, x in zip(models, xs, strict=True):
            for wanted in ("last", "own") if target == "both" else (target,):
                given = shared if wanted == "last" else None
                try:
                    found = _measured(model, task, spec, keep, told, command, options, given)
                    own = found.baseline if given is None else None
                    cells.append(_cell(found, model, task, x, wanted, own))
                except D90Error as error:
                    told.note(f"{model} on {task}: {error}")
                    failed: tuple[int | None, int | None] = (None, None)
                    cells.append(Cell(model, task, x, wanted, "failed", None, failed, None, None, None, str(error)))
    cells = [
        replace(c, score=_full(c.model, c.task, keep, options)) if c.score is None and c.status != "failed" else c
        for c in cells
    ]
    definitions = {"target": target, "options": {key: str(value) for key, value in options.items()}, **versions()}
    result = Series(kind, str(spec), rule, xlabel, tuple(cells), definitions, command)
    asked = [kind, list(models), list(tasks), str(spec), target, definitions["options"]]
    keep.put_study(hashed(asked), kind, asdict(result))
    return result


def _measured(
    model: str, task: str, spec: Spec, store: Store, told: Progress, command: str, options: dict[str, Any],
    baseline: float | None = None,
) -> Measurement:  # fmt: skip
    given = {} if baseline is None else {"baseline": baseline}
    return measure(model, task, spec, store=store, progress=told, command=command, **{**options, **given})


def _full(model: str, task: str, store: Store, options: dict[str, Any]) -> float | None:
    """The model's own full score where the store has it; it is not trained for a figure alone."""
    wanted = str(parse(str(options.get("baseline", "full"))))
    scores = [
        trial.score
        for trial in store.trials()
        if (trial.recipe["model"], trial.recipe["task"], trial.recipe["method"]) == (model, task, wanted)
    ]
    return scores[-1] if scores else None


def _cell(found: Measurement, model: str, task: str, x: int, target: str, own: float | None) -> Cell:
    return Cell(model, task, x, target, found.status, found.d90, found.interval, own, found.threshold, found.chance)
