"""generalization(stores) -> rows: d90 against evaluation accuracy and against the relative gap (Aghajanyan et al. 2021, section 5).

    gap = (acc_train - acc_eval) / (1 - acc_eval)        of the tune at d90
    capacity = sqrt(d90 ln r / n)                        what the error may rise by, up to a constant (their theorem 1)

A row is a stored measurement that found d90. Its full score is in the store; a trial keeps no weights, so the tune at d90 is trained
once more for its training accuracy where that is asked for, and kept as a study of its own: trials and their keys stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from d90.analysis import bounds
from d90.errors import D90Error, InputError
from d90.files import Json
from d90.methods import Spec, parse
from d90.results.generalization import Generalization, GeneralizationRow
from d90.results.measure import Measurement
from d90.results.result import stored_results
from d90.training.device import best_device
from d90.training.loop import Data, fit, open_model, open_task, predict
from d90.training.precision import precision_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.training.showing import ProgressOption, listener, shows_progress
from d90.training.steps import RunControl
from d90.trials.context import versions
from d90.trials.store import Store, digest

__all__ = ["LEVELS", "generalization"]

LEVELS = 3  # r: what the certificates' tunes take


@dataclass(frozen=True)
class Accuracies:
    """Of one tune: on its n training examples, and on the validation split."""

    train: float
    evaluation: float
    n: int

    @classmethod
    def from_dict(cls, body: Json) -> Accuracies:
        """From a stored study of the kind "gap"."""
        return cls(body["train"], body["evaluation"], body["n"])


@shows_progress
def generalization(
    stores: Sequence[str | os.PathLike[str]], *, method: str = "", train: bool = False, progress: ProgressOption = None
) -> Generalization:
    """A row for each measurement in the stores that found d90, the oldest first.

    Example:
        >>> found = d90.measure(model, images, lr=0.01, epochs=3, budget=6, start=32)
        >>> rows = d90.generalization(["runs/d90.sqlite"]) if found.status == "found" else []
        >>> [row.d90 for row in rows] in ([], [found.d90])
        True

    Args:
        stores: paths.
        method: only measurements of methods whose stored name begins so, as `full@structure=did`: d90 of different methods are
            counted in different spaces.
        train: train the tunes at d90 whose training accuracy is in no store; their result is written there.
        progress: receives the events; by default bars in a terminal, lines in a notebook; False silences it.

    Raises:
        InputError: no measurement (of that method) found d90.
        StoreError, RunFailed: a store cannot be used.
    """
    progress = listener(progress)
    rows = Generalization()
    for path in stores:
        store = Store(path, write=train)
        try:
            known = {body["asked"]: Accuracies.from_dict(body) for body in store.studies("gap")}
            for study in stored_results(store, Measurement, "measure"):
                measured = study.d90 is not None and study.status in ("found", "floor")
                if measured and study.method.startswith(method):
                    rows.append(_row(study, known, store, train, progress))
        finally:
            store.close()
    if not rows:
        names = ", ".join(f"'{path}'" for path in stores)
        of = f" of a method that begins with '{method}'" if method else ""
        raise InputError(f"no measurement{of} in {names} found d90, expected at least one; run 'd90 measure' first")
    return rows


def _row(
    study: Measurement, known: dict[str, Accuracies], store: Store, train: bool, progress: Progress
) -> GeneralizationRow:
    method, recipe = _trial(study)
    asked = digest([recipe.to_dict(), study.task_fingerprint, study.base_fingerprint])
    found, note = known.get(asked), "" if train else "not trained for its training accuracy"
    if found is None and train:
        try:
            found = _accuracies(study, method, recipe, progress)
            body = {**asdict(found), "recipe": recipe.to_dict(), "context": versions()}
            store.put_study(asked, "gap", {"asked": asked, **body})
        except D90Error as error:
            note = str(error)
            progress.note(f"{study.model} on {study.task}: {note}")
    assert study.d90 is not None
    common = (study.model, study.task, study.method, study.rule, study.metric, study.d90)
    full = None if study.baseline_method == "a given number" else study.baseline
    row = GeneralizationRow(*common, study.interval, full, note=note)
    if found is None:
        return row
    seen, evaluation, n = found.train, found.evaluation, found.n
    gap = bounds.relative_gap(seen, evaluation) if evaluation < 1 else None
    note = "" if gap is not None else "no error on the validation split: the gap is 0 / 0"
    capacity = bounds.capacity_form(0.0, study.d90, LEVELS, n)
    return GeneralizationRow(*common, row.interval, row.baseline, seen, evaluation, n, gap, capacity, note)


def _trial(study: Measurement) -> tuple[Spec, Recipe]:
    """The trial at d90 that is best on the validation split; the first seed's where none ran to its end there."""
    assert study.d90 is not None
    own = parse(study.method)
    ended = [point for point in study.curve if point.d == study.d90 and point.status == "finished"]
    seed = study.first_seed
    best = min(ended, key=lambda point: -point.score, default=None)
    training_seed, p = (seed, seed) if best is None else (best.seed, best.p_seed)
    if own.space is not None and own.space.seed is not None:
        p = own.space.seed
    spec = own.at(study.d90, seed=p if p != training_seed or (own.space and own.space.seed is not None) else None)
    return spec, replace(study.settings, method=str(spec), seed=training_seed)


def _accuracies(study: Measurement, spec: Spec, recipe: Recipe, progress: Progress) -> Accuracies:
    """Train the tune and count, at its best evaluation's weights."""
    task = open_task(recipe.task, recipe)
    wanted = study.task_fingerprint
    if wanted is not None and task.fingerprint != wanted:
        raise InputError(
            f"task '{task.name}' holds other examples now, expected those that were measured; give the same data"
        )
    if not task.kind.right_or_wrong:
        raise InputError(
            f"task '{task.name}' is no classification, expected accuracies: the gap is one of error rates, and of a {task.kind.name} "
            f"{task.kind.mistake or 'no example is right or wrong'}"
        )
    model = open_model(recipe.model, task, recipe, best_device())
    if study.base_fingerprint not in (None, model.fingerprint):
        raise InputError(f"model '{recipe.model}' is another one now, expected the base that was measured")
    data = Data(model, task)
    applied_method = fit(data, spec, recipe, progress=progress, control=RunControl(keep_best=True))[1]
    try:
        precision = precision_of(recipe, data)
        right = []
        for name in ("train", "validation"):
            answers, labels = task.kind.held_against(predict(model, data.split(name), precision), task.splits[name])
            right.append(answers == labels)
    finally:
        applied_method.release()
    train, evaluation = (one.double().mean().item() for one in right)
    progress.trial_ended(
        f"{recipe.method} on {recipe.task}", f"accuracy {train:.4f} in training, {evaluation:.4f} in validation"
    )
    return Accuracies(train, evaluation, len(task.train))
