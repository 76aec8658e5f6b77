"""What a measurement leaves to use: the tune of the smallest d that passed, the line that trains it, and another space that passes."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from d90.errors import D90Error, InputError, RunFailed
from d90.methods import Spec, parse
from d90.methods.spec import short_text
from d90.options import TaskOptions, TrainingOptions
from d90.results.measure import Measurement, Point
from d90.studies.advice_words import train_line
from d90.tasks.metrics import to_display
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.training.record import beside, copy_pair, read_record

if TYPE_CHECKING:
    from d90.studies.measurement_setting import Setting
    from d90.studies.measurement_trials import MeasurementTrials

__all__ = ["confirmed", "with_use"]


def confirmed(result: Measurement) -> Point | None:
    """The trial to use: of the smallest d from d90 on that passed, the best; None where none did."""
    passed = [point for point in result.curve if result.reached(point)]
    above = [point for point in passed if result.d90 is not None and point.d >= result.d90]
    return min(above or passed, key=lambda point: (point.d, -point.score), default=None)


def with_use(
    result: Measurement, setting: Setting, trials: MeasurementTrials, training: TrainingOptions, data: TaskOptions, progress: Progress
) -> Measurement:  # fmt: skip
    """The result with its tune, the line that trains it, and the smallest other space that passes."""
    point = confirmed(result) if result.status in ("found", "floor") else None
    if point is not None:
        recipe, out = trials.recipe_of(point), setting.runner.store.path.with_suffix(".d90")
        own = replace(training, seed=recipe.seed)
        line = train_line(recipe, short_text(parse(recipe.method)), recipe.lr, own, data, out)
        try:
            tune = _take(setting.runner.kept(recipe), recipe, out)
        except (D90Error, RunFailed, OSError) as error:  # the answer is there all the same
            progress.note(f"the tune was not kept: {error}")
            tune = ""
        result = replace(result, line=line, tune=tune)
    for recipe in trials.recipes:
        for path in (setting.runner.kept(recipe), beside(setting.runner.kept(recipe))):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        setting.runner.store.states.rmdir()
    return replace(result, other=_other(result, setting))


def _take(kept: Path, recipe: Recipe, out: Path) -> str:
    """Copy a trial's tune to where it is to stay; nothing where the trial came from the store without one, and another lies there."""
    if not (kept.exists() and beside(kept).exists()):
        try:
            return str(out) if read_record(out).recipe == recipe else ""
        except (InputError, OSError):
            return ""
    copy_pair(kept, out)
    return str(out)


def _other(result: Measurement, setting: Setting) -> str:
    """The smallest other space in the store whose trial passes the same threshold, in words; nothing where none does."""
    runner, own = setting.runner, str(setting.spec.at(1, seed=None))
    task, bases = runner.task.fingerprint, runner.bases(setting.recipe)
    baseline = None if setting.base is None else setting.base.method  # it passes its own threshold
    found: list[tuple[int, str, float]] = []
    for row in runner.store.trials():
        here = row.result.context.of(task, bases)
        if (
            not here
            or row.recipe.method == baseline
            or row.status not in ("finished", "passed")
            or row.score < result.threshold
        ):
            continue
        try:
            spec = parse(row.recipe.method)
        except InputError:  # a method that this version does not have
            continue
        if spec.space is None or str(spec.at(1, seed=None)) != own:
            found.append((row.result.trained, _plain(spec), row.score))
    if not found:
        return ""
    trained, name, score = min(found)
    return f"{name}: {trained:,} numbers trained, {result.metric} {to_display(score, result.metric):.4f}"


def _plain(spec: Spec) -> str:
    """Without the seed of P."""
    return short_text(spec if spec.space is None else replace(spec, space=replace(spec.space, seed=None)))
