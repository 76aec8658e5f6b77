"""A finished training run: what it gave, its model with the tune on it, and the tune's file."""

from __future__ import annotations

import os

from torch import nn

from d90.display import Display
from d90.methods import AppliedMethod, Counts, Trainable, counts
from d90.models.model import Model
from d90.tasks import Task
from d90.tasks.metrics import to_display
from d90.training.base import encoding_of
from d90.training.batches import Batches
from d90.training.evaluation import predict
from d90.training.recipe import Recipe
from d90.training.record import TaskRecord, TuneRecord, save_pair
from d90.training.result import TrialResult

__all__ = ["Run"]


class Run(Display):
    """A finished training run whose model carries the tune until `release()`.

    Example:
        >>> run = d90.train(model, task, "full@d=20", epochs=1, lr=0.01)
        >>> run.counts.stored
        20
        >>> run.save("task.d90")
        >>> network = run.release()

    Attributes:
        recipe, outcome: how it was trained, and what that gave: scores (shares of 1, or minus the loss), steps, seconds.
        model, task: both as they were opened; `model.module` computes with the tune.
        applied_method: the method that is on the model; `release()` and `merge()` take it off.
    """

    def __init__(
        self, recipe: Recipe, outcome: TrialResult, model: Model, task: Task, applied_method: AppliedMethod
    ) -> None:
        self.recipe, self.outcome, self.model, self.task, self.applied_method = (
            recipe,
            outcome,
            model,
            task,
            applied_method,
        )

    @property
    def trained(self) -> Trainable:
        """What the optimizer moved: a `Subspace`, or the parameters themselves."""
        return self.applied_method.trained

    @property
    def counts(self) -> Counts:
        """What the method moves, trains, stores and adds at inference, in numbers."""
        return counts(self.applied_method.spec, self.applied_method.applied)

    @property
    def score(self) -> float:
        """That of the kept weights on the validation split: the best evaluation's, the untrained model's among them."""
        return self.outcome.score

    def __str__(self) -> str:
        score = f"{to_display(self.score, self.task.metric):.4f}"
        stored = f"{self.counts.stored:,} numbers"
        return f"{self.model.name} on {self.task.name}, {self.applied_method.spec.brief}: {self.task.metric} {score}, {stored}"

    def __repr__(self) -> str:
        return f"<Run: {self}>"

    def save(self, path: str | os.PathLike[str], dtype: str = "fp32") -> None:
        """Write the tune to `path`, and beside it, as JSON, what made it and what loading the model and task needs.

        `dtype` "bf16" or "int8" rounds theta in the file (`d90.subspace.file`).
        """
        kind = self.task.kind
        if kind.calibrates:
            validation = Batches(self.model, self.task.validation, kind)
            kind = kind.calibrated(predict(self.model, validation, self.outcome.precision), validation.labels)
        task, model = self.task, self.model
        about = TaskRecord(
            kind.stored,
            task.metric,
            task.texts,
            task.labels,
            task.fingerprint,
            {name: len(split) for name, split in task.splits.items()},
            model.max_length,
            (*task.notes, *model.notes),
            kind.record,
        )
        record = TuneRecord.made(self.recipe, self.outcome, about, model.base, model.fresh, encoding_of(model))
        save_pair(path, record.stored, lambda target, named: self.applied_method.save(target, named, dtype))

    def merge(self) -> nn.Module:
        """Leave a plain model of the base's shape that carries the tune; the run is then spent.

        Raises:
            InputError: the method cannot be merged.
        """
        return self.applied_method.merge()

    def release(self) -> nn.Module:
        """Take the tune off and give the model back untouched."""
        return self.applied_method.release()
