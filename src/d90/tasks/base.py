"""What a task is: examples, a loss, a metric, and the hash of its data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from d90.errors import InputError, unknown_name
from d90.projections.philox import permutation
from d90.tasks.metrics import CORRELATIONS, LOSS, METRICS

__all__ = ["ABSENT", "MAX_HELD", "Split", "Task"]

MAX_HELD = 2000  # examples in a split that is made
ABSENT = -1.0  # among a document's nats, which are >= 0: there is no token


@dataclass(frozen=True)
class Split:
    """One split: inputs are texts (one or two strings an example) or images (n, channels, height, width) in fp32.

    `labels` is (n,): int64 class numbers, or fp32 values for regression; zeros for documents, whose tokens are their own labels.
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

    def hold_out(self, block: int) -> tuple[Split, Split]:
        """(rest, held): a tenth, at most `MOST_HELD` examples, drawn by the bits of the stream "split"; order is kept.

        Args:
            block: which of the stream's bits: 0 draws a validation split, 1 a test split.
        """
        count = min(MAX_HELD, max(1, len(self) // 10))
        held = torch.zeros(len(self), dtype=torch.bool)
        held[permutation(0, "split", block, len(self))[:count]] = True
        return self._pick(~held), self._pick(held)

    def _pick(self, mask: Tensor) -> Split:
        if isinstance(self.inputs, Tensor):
            return Split(self.inputs[mask], self.labels[mask])
        chosen = [texts for texts, kept in zip(self.inputs, mask.tolist(), strict=True) if kept]
        return Split(chosen, self.labels[mask])


@dataclass(frozen=True)
class Task:
    """A supervised task in up to three splits.

    Attributes:
        name: as the user wrote it.
        kind: "classification", "regression", or "language": each example is a document, whose tokens are predicted in turn.
        labels: the names of the classes, in order; empty for the others.
        metric: a name in `d90.tasks.metrics.METRICS`, or "loss" (minus the mean loss); larger is better.
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
        if self.metric not in (*METRICS, LOSS):
            raise unknown_name("metric", self.metric, (*METRICS, LOSS))
        if self.metric != LOSS and (self.kind == "regression") != (self.metric in CORRELATIONS):
            wanted = [name for name in METRICS if (name in CORRELATIONS) == (self.kind == "regression")]
            wanted.append(LOSS)
            raise InputError(
                f"task '{self.name}': got metric '{self.metric}' for a {self.kind}, expected {' or '.join(wanted)}. "
                "Likely cause: numbers taken for classes or the reverse; say which with kind"
            )
        if self.kind == "language" and self.metric != LOSS:
            raise InputError(
                f"task '{self.name}': got metric '{self.metric}' for documents, expected {LOSS}; leave it out"
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
        """How many numbers the model puts out for an example: the classes, or 1 for regression; 0 for documents, one a token."""
        return 1 if self.kind == "regression" else len(self.labels)

    @property
    def is_text(self) -> bool:
        """Whether the inputs are texts (else images)."""
        return not isinstance(self.train.inputs, Tensor)

    def limit(self, train: int | None = None, validation: int | None = None) -> Task:
        """The task with its first `train` and `validation` examples only."""
        return replace(self, train=self.train.take(train), validation=self.validation.take(validation))

    def with_test(self) -> Task:
        """The task with a test split: its own, or a tenth of the training examples, made and noted here.

        Raises:
            InputError: too few training examples.
        """
        if self.test is not None:
            return self
        if len(self.train) < 4:
            raise InputError(
                f"task '{self.name}' has no test split and {len(self.train)} training examples, expected at least 4 to "
                "make one from"
            )
        rest, held = self.train.hold_out(1)
        note = f"test: {len(held)} of the training examples, drawn with the stream 'split'; not trained on"
        return replace(self, train=rest, test=held, notes=(*self.notes, note))

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
        """Cross-entropy of the logits (n, classes), or the mean squared error of (n, 1) outputs; mean over examples.

        Of documents: the mean over documents of each one's mean over its tokens, outputs (n, tokens) being each token's nats.
        """
        if self.kind == "language":
            there = outputs != ABSENT  # not a comparison of size: a value that is not finite must stay and be seen
            return (outputs.where(there, 0.0).sum(dim=1) / there.sum(dim=1)).mean()
        if self.kind == "regression":
            return torch.nn.functional.mse_loss(outputs.float().squeeze(-1), labels)
        return torch.nn.functional.cross_entropy(outputs.float(), labels)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Class numbers, or values, from the model's outputs (n, `self.outputs`)."""
        return outputs.float().squeeze(-1) if self.kind == "regression" else outputs.argmax(dim=-1)

    def score(self, outputs: Tensor, split: str = "validation") -> float:
        """The metric of the model's outputs on one split; larger is better."""
        labels = self.splits[split].labels
        if self.metric == LOSS:
            return -self.loss(outputs, labels).item()
        return METRICS[self.metric](self.predictions(outputs), labels)

    def chance(self, split: str = "validation", vocabulary: int | None = None) -> float:
        """The score of always giving the training set's most frequent class (or its mean): needs no model.

        For a loss, that of always giving the training set's frequencies of the classes; of documents the uniform guess among
        the model's V tokens, -ln V.

        Args:
            split: whose labels count.
            vocabulary: V, of a causal language model.

        Raises:
            InputError: documents without V.
        """
        if self.kind == "language":
            if vocabulary is None:
                raise InputError(
                    f"task '{self.name}' has documents, expected vocabulary=V: chance is the uniform guess among a model's V tokens"
                )
            return -math.log(vocabulary)
        labels = self.train.labels
        if self.metric == LOSS:
            rows = len(self.splits[split])
            if self.kind == "regression":
                return self.score(labels.mean().expand(rows, 1), split)
            share = torch.bincount(labels, minlength=len(self.labels)).float().clamp(min=1e-3).log()
            return self.score(share.expand(rows, -1), split)
        constant = labels.mean() if self.kind == "regression" else torch.bincount(labels).argmax()
        given = self.splits[split].labels
        return METRICS[self.metric](constant.expand_as(given).clone(), given)
