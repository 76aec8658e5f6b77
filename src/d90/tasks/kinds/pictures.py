"""One class for a picture: a folder of class folders, or a column of images, for models with a processor of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError
from d90.search.rules import Scale, set_scale
from d90.tasks.columns import Columns, Table
from d90.tasks.encoded import Encoded, Encoder, Lazy
from d90.tasks.kinds.base import Reading, TaskKind
from d90.tasks.kinds.classification import Classification
from d90.tasks.labels import class_names, class_numbers, raw_labels
from d90.tasks.pictures import IMAGE_COLUMNS, picture_column, picture_of, read_picture
from d90.tasks.split import Split

__all__ = ["Pictures"]

TOP5 = "top5"
set_scale(TOP5, Scale(share=True))


@dataclass(frozen=True)
class Pictures(Classification):
    """One of several classes for a picture; cross-entropy of the logits.

    Attributes:
        top: how many of the likeliest classes a prediction names; 5 for the metric top5.
    """

    name: ClassVar[str] = "image-classification"
    stored: ClassVar[str] = "image-classification"
    summary: ClassVar[str] = "one class for a picture: a folder of class folders, or a column of images"
    takes: ClassVar[str] = "pictures"
    auto_class: ClassVar[str | None] = "AutoModelForImageClassification"
    problem: ClassVar[str | None] = "single_label_classification"
    metrics: ClassVar[tuple[str, ...]] = (*Classification.metrics, TOP5)
    shown: ClassVar[str] = "image"
    hub_task: ClassVar[str | None] = "image-classification"
    peft_task: ClassVar[str | None] = None

    top: int = 1

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """A column of images and a label."""
        return picture_column(table, columns) is not None and columns.label in table.rows[0]

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Classes are those of the training table; one that only training has is noted."""
        name = picture_column(tables["train"], columns)
        if name is None:
            raise InputError(
                f"{tables['train'].where}: no column of images ({' or '.join(IMAGE_COLUMNS)}: bytes, or the path of a file); "
                "name it with --text"
            )
        if columns.label not in tables["train"].rows[0]:
            raise InputError(f"{tables['train'].where}: no label column '{columns.label}'. Name it with --label")
        found = {part: raw_labels(table, columns.label)[0] for part, table in tables.items()}
        names = class_names(found["train"], tables["train"], given)
        splits, notes = {}, [] if given else [f"kind: {cls.name} into {len(names)} classes; --kind names another"]
        for part, table in tables.items():
            pictures = [(picture_of(row.get(name), table.spot(i), table.folder),) for i, row in enumerate(table.rows)]
            splits[part] = Split(pictures, class_numbers(found[part], names, table))
            lacks = [label for label in names if label not in set(map(str, found[part]))]
            notes += (
                [f"{part}: no picture of the class{'es' if len(lacks) > 1 else ''} {', '.join(lacks[:8])}"]
                if lacks
                else []
            )
        return Reading(cls(names), splits, tuple(notes))

    def texts(self, split: Split) -> int:
        """One: the path of a picture."""
        return 1

    def examples(self, texts: Sequence[tuple[str, ...]]) -> Split:
        """The pictures of these paths.

        Raises:
            InputError: no such file, or a broken picture.
        """
        found = [(read_picture(Path(path), f"example {i}"),) for i, (path,) in enumerate(texts, start=1)]
        return Split(found, torch.zeros(len(found), dtype=torch.int64))

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor | Lazy:
        """What the model's processor makes of each picture, when it is asked for."""
        assert not isinstance(split.inputs, Tensor)
        return encoder.pictures(split.inputs)

    def check_model(self, model: str, tokenizer: Any | None, task: str) -> None:
        """Refuse a model of texts."""
        if tokenizer is not None:
            raise InputError(
                f"model '{model}' takes texts and task '{task}' has pictures; expected a model such as ViT or ResNet"
            )

    def scored_by(self, metric: str) -> TaskKind:
        """With the five likeliest classes as the prediction, where that is what counts."""
        top = 5 if metric == TOP5 else 1
        return self if top == self.top else replace(self, top=top)

    def predict(self, outputs: Tensor) -> Tensor:
        """The likeliest class (n,), or classes (n, 5)."""
        return super().predict(outputs) if self.top == 1 else outputs.topk(min(self.top, outputs.shape[-1])).indices

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """As of a classification; top5 is the share of pictures whose class is among those named."""
        if metric != TOP5:
            return super().measure(metric, predicted, labels)
        return (predicted == labels[:, None]).any(dim=1).double().mean().item()

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Always the commonest training classes; for the loss their frequencies."""
        if metric != TOP5:
            return super().chance(metric, train, labels, vocabulary)
        counts = torch.bincount(train, minlength=len(self.labels))
        return self.measure(metric, counts.topk(min(5, len(counts))).indices.expand(len(labels), -1), labels)
