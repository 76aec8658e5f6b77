"""One number an example, in the user's unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from d90.files import Json
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Prediction, Reading, TaskKind
from d90.tasks.labels import look_like_values, raw_labels, values
from d90.tasks.metrics import LOSS
from d90.tasks.pictures import labelled_texts
from d90.tasks.split import Split

__all__ = ["Regression"]


@dataclass(frozen=True)
class Regression(TaskKind):
    """A number y; the model puts out z, standardised by the training labels: y = mean + deviation z.

    The squared error of z is minimised, so that prices train at the rates of ratings; predictions and losses are shown in y's unit.
    """

    name: ClassVar[str] = "regression"
    stored: ClassVar[str] = "regression"
    summary: ClassVar[str] = "one number for a text or a pair of texts"
    mistake: ClassVar[str] = "a number is near or far, and never just right"
    problem: ClassVar[str | None] = "regression"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman")
    hub_task: ClassVar[str | None] = None
    peft_task: ClassVar[str | None] = "SEQ_CLS"

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """Labels that are numbers, and not all of them whole."""
        return labelled_texts(table, columns) and look_like_values(raw_labels(table, columns.label)[0], table)

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Labels as fp32 numbers."""
        splits = {
            part: Split(columns.texts(table), values(raw_labels(table, columns.label)[0], table))
            for part, table in tables.items()
        }
        said = (
            "kind: regression, guessed as not all labels are whole numbers; --kind classification takes them as classes"
        )
        return Reading(cls(), splits, () if given else (said,))

    def fitted(self, train: Split) -> TaskKind:
        """With the mean and standard deviation of the training labels; 1 where they are all equal."""
        labels = train.labels.double()
        deviation = labels.std(correction=0).item()
        return replace(self, mean=labels.mean().item(), deviation=deviation if deviation > 0 else 1.0)

    @property
    def marks(self) -> str:
        """Standardised targets are another training than the plain ones of before; both numbers follow from the labels."""
        return "|standardised"

    @property
    def record(self) -> Json:
        """Mean and deviation."""
        return {"mean": self.mean, "deviation": self.deviation}

    def restored(self, record: Json) -> TaskKind:
        """With the numbers of a finished tune; 0 and 1 for those of before."""
        return replace(self, mean=float(record.get("mean", 0.0)), deviation=float(record.get("deviation", 1.0)))

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    @property
    def unit(self) -> float:
        """The variance: of a squared error."""
        return self.deviation**2

    @property
    def unit_of_outputs(self) -> tuple[float, float]:
        """Those of the training labels."""
        return self.mean, self.deviation

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared errors in the unit of the labels."""
        return (self.predict(outputs) - labels).square()

    def training_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean squared error of the standardised values."""
        target = (labels.double() - self.mean) / self.deviation
        return torch.nn.functional.mse_loss(outputs.float().squeeze(-1), target.float())

    def kept_losses(self, kept: Tensor, labels: Tensor) -> Tensor | None:
        """Squared errors of the values."""
        return (kept - labels).square()

    def predict(self, outputs: Tensor) -> Tensor:
        """Values in the unit of the labels."""
        return self.mean + self.deviation * outputs.float().squeeze(-1)

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """The value."""
        return {"value": self.predict(output.reshape(1, 1)).item()}

    def of_images(self) -> TaskKind:
        """A number for each image."""
        from d90.tasks.kinds.images import ImageValues

        return ImageValues((), self.mean, self.deviation) if type(self) is Regression else self

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Always the mean of the training labels."""
        guess = train.mean().expand_as(labels)
        return (
            -(guess - labels).square().mean().item() if metric == LOSS else self.measure(metric, guess.clone(), labels)
        )
