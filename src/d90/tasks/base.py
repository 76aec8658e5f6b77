"""What a task is: examples, a loss, a metric, and the hash of its data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from d90.errors import InputError, choose
from d90.tasks.metrics import METRICS

__all__ = ["Split", "Task"]


@dataclass(frozen=True)
class Split:
    """One split: inputs are texts (one or two strings an example) or images (n, channels, height, width) in fp32.

    `labels` is (n,): int64 class numbers, or fp32 values for regression.
    """

    inputs: Sequence[tuple[str, ...]] | Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int | None) -> Split:
        """The first `count` examples (all of them for None): prefixes nest, so a larger limit only adds examples."""
        if count is None or count >= len(self):
            return self
        return Split(self.inputs[:count], self.labels[:count])


@dataclass(frozen=True)
class Task:
    """A supervised task in up to three splits.

    Attributes:
        name: as the user wrote it.
        kind: "classification" or "regression".
        labels: the names of the classes, in order; empty for regression.
        metric: a name in `d90.tasks.metrics.METRICS`; larger is better.
        train, validation, test: the splits; models are chosen on `validation`, `test` is only ever reported.
        notes: what was done to the data on the way in (a split made, rows dropped), a line each, recorded with results.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    metric: str
    train: Split
    validation: Split
    test: Split | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for part, split in self.splits.items():
            if len(split) == 0:
                raise InputError(f"task '{self.name}': its {part} split is empty; expected at least one example")
        correlations = ("pearson", "spearman")
        if self.metric not in METRICS:
            raise choose("metric", self.metric, METRICS)
        if (self.kind == "regression") != (self.metric in correlations):
            wanted = [name for name in METRICS if (name in correlations) == (self.kind == "regression")]
            raise InputError(
                f"task '{self.name}': got metric '{self.metric}' for a {self.kind}, expected {' or '.join(wanted)}. "
                "Likely cause: numbers taken for classes or the reverse; say which with kind"
            )
        if self.metric == "f1" and len(self.labels) != 2:
            raise InputError(
                f"task '{self.name}': got metric 'f1' for {len(self.labels)} classes, expected 2: it is F1 of the "
                "second class. Use accuracy or matthews"
            )
        if self.kind == "classification" and len(torch.unique(self.train.labels)) < 2:
            raise InputError(
                f"task '{self.name}': all {len(self.train)} training labels are one class; expected at least two "
                "classes. Likely cause: the wrong label column, or a sorted file cut short."
            )

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    @property
    def outputs(self) -> int:
        """How many numbers the model puts out for an example: the classes, or 1 for regression."""
        return 1 if self.kind == "regression" else len(self.labels)

    @property
    def is_text(self) -> bool:
        """Whether the inputs are texts (else images)."""
        return not isinstance(self.train.inputs, Tensor)

    def limit(self, train: int | None = None, validation: int | None = None) -> Task:
        """The task with its first `train` and `validation` examples only."""
        return replace(self, train=self.train.take(train), validation=self.validation.take(validation))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every input and label of every split, in order: part of every trial's key."""
        digest = hashlib.sha256(f"{self.kind}|{self.metric}|{'|'.join(self.labels)}".encode())
        for name, split in self.splits.items():
            digest.update(f"\0{name}\0{len(split)}\0".encode())
            if isinstance(split.inputs, Tensor):
                digest.update(split.inputs.contiguous().numpy().tobytes())
            else:
                for texts in split.inputs:
                    digest.update("\x1f".join(texts).encode("utf-8", "surrogatepass") + b"\x1e")
            digest.update(split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the logits (n, classes), or the mean squared error of (n, 1) outputs; mean over examples."""
        if self.kind == "regression":
            return torch.nn.functional.mse_loss(outputs.float().squeeze(-1), labels)
        return torch.nn.functional.cross_entropy(outputs.float(), labels)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Class numbers, or values, from the model's outputs (n, `self.outputs`)."""
        return outputs.float().squeeze(-1) if self.kind == "regression" else outputs.argmax(dim=-1)

    def score(self, outputs: Tensor, split: str = "validation") -> float:
        """The metric of the model's outputs on one split; larger is better."""
        return METRICS[self.metric](self.predictions(outputs), self.splits[split].labels)

    def chance(self, split: str = "validation") -> float:
        """The score of always giving the training set's most frequent class (or its mean): needs no model."""
        labels = self.train.labels
        constant = labels.mean() if self.kind == "regression" else torch.bincount(labels).argmax()
        given = self.splits[split].labels
        return METRICS[self.metric](constant.expand_as(given).clone(), given)
