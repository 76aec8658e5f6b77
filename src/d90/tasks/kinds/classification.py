"""One class an example: sentences or pairs of sentences, and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from d90.errors import InputError, quoted, unknown_name
from d90.files import Json
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Prediction, Reading, TaskKind
from d90.tasks.labels import alike, class_names, class_numbers, look_like_values, raw_labels
from d90.tasks.metrics import LOSS
from d90.tasks.pictures import labelled_texts
from d90.tasks.split import Split

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification(TaskKind):
    """One of several classes; cross-entropy of the logits.

    Attributes:
        positive: the class that F1 is of; the rarer of two in training where none is named.
    """

    name: ClassVar[str] = "classification"
    stored: ClassVar[str] = "classification"
    summary: ClassVar[str] = "one class for a text or a pair of texts"
    problem: ClassVar[str | None] = "single_label_classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews")
    classes: ClassVar[bool] = True
    right_or_wrong: ClassVar[bool] = True
    mistake: ClassVar[str] = "a wrong class"
    hub_task: ClassVar[str | None] = "text-classification"
    peft_task: ClassVar[str | None] = "SEQ_CLS"

    positive: str | None = None

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """Labels that are not values."""
        return labelled_texts(table, columns) and not look_like_values(raw_labels(table, columns.label)[0], table)

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Classes are those of the training table, numbers in their order before names."""
        texts = {part: columns.texts(table) for part, table in tables.items()}
        found = {part: raw_labels(table, columns.label) for part, table in tables.items()}
        names = class_names(found["train"][0], tables["train"], given)
        splits = {
            part: Split(texts[part], class_numbers(found[part][0], names, table)) for part, table in tables.items()
        }
        notes = [] if given else [f"kind: classification into {len(names)} classes, guessed; --kind names another"]
        notes += [
            f"{part}: spaces around {count:,} labels were left out" for part, (_, count) in found.items() if count
        ]
        notes += [
            f"labels {quoted(one)} and {quoted(other)} differ in writing alone and are two classes"
            for one, other in alike(names)[:5]
        ]
        return Reading(cls(names), splits, tuple(notes))

    def fitted(self, train: Split) -> TaskKind:
        """With the rarer of two classes as the positive one, where none is named; of equal ones the second."""
        if self.positive is not None or len(self.labels) != 2:
            return self
        counts = torch.bincount(train.labels, minlength=2)
        return replace(self, positive=self.labels[int(counts[1] <= counts[0])])

    def named(self, positive: str) -> Classification:
        """With `positive` as the class that F1 is of.

        Raises:
            InputError: no such class.
        """
        if positive not in self.labels:
            raise unknown_name("positive class", positive, self.labels[:20])
        return replace(self, positive=positive)

    def check(self, task: str, train: Split, metric: str) -> None:
        """As the others; F1 takes two classes, and training labels are of two at least."""
        super().check(task, train, metric)
        if metric == "f1" and len(self.labels) != 2:
            raise InputError(
                f"task '{task}': got metric 'f1' for {len(self.labels)} classes, expected 2: it is F1 of the "
                "positive class. Use accuracy or matthews"
            )
        if len(torch.unique(train.labels)) < 2:
            raise InputError(
                f"task '{task}': all {len(train)} training labels are one class; expected at least two "
                "classes. Likely cause: the wrong label column, or a sorted file cut short."
            )

    @property
    def marks(self) -> str:
        """The positive class where it is not the second, whose F1 was always given before."""
        return "" if self.positive in (None, *self.labels[1:2]) else f"|positive={self.positive}"

    @property
    def record(self) -> Json:
        """The positive class."""
        return {} if self.positive is None else {"positive": self.positive}

    def restored(self, record: Json) -> TaskKind:
        """With the positive class of a finished tune; of those before it was kept, the second."""
        second = self.labels[1] if len(self.labels) == 2 else None
        return replace(self, positive=record.get("positive", second))

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return len(self.labels)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the logits (n, classes), in nats."""
        return torch.nn.functional.cross_entropy(outputs.float(), labels, reduction="none")

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Their mean in one call, bit for bit as stored runs were trained."""
        return torch.nn.functional.cross_entropy(outputs.float(), labels)

    def predict(self, outputs: Tensor) -> Tensor:
        """The number of the likeliest class."""
        return outputs.argmax(dim=-1)

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """The class, its probability, and every class's."""
        shares = output.float().softmax(dim=-1).tolist()
        best = max(range(len(shares)), key=shares.__getitem__)
        return {
            "label": self.labels[best],
            "probability": shares[best],
            "probabilities": dict(zip(self.labels, shares, strict=True)),
        }

    def of_images(self) -> TaskKind:
        """The classes of images."""
        from d90.tasks.kinds.images import Images

        return Images(self.labels, self.positive) if type(self) is Classification else self

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """A metric of classes; F1 of the positive one."""
        if metric == "f1" and self.positive is not None:
            positive = self.labels.index(self.positive)
            predicted, labels = (predicted == positive).long(), (labels == positive).long()
        return super().measure(metric, predicted, labels)

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Always the commonest training class; for the loss its frequencies."""
        counts = torch.bincount(train, minlength=len(self.labels))
        if metric == LOSS:
            return self.score(metric, counts.float().clamp(min=1e-3).log().expand(len(labels), -1), labels)
        return self.measure(metric, counts.argmax().expand_as(labels).clone(), labels)

    def metric_name(self, metric: str) -> str:
        """F1 with its class."""
        return f"f1 of {quoted(self.positive, 30)}" if metric == "f1" and self.positive is not None else metric
