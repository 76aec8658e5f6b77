"""What a task is: examples in up to three splits, their kind, a metric, and the hash of its data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from d90.errors import InputError, quoted, unknown_name
from d90.tasks.answers import SCRIPT
from d90.tasks.corpus_scores import CORPUS_METRICS
from d90.tasks.kinds import ABSENT, Classification, TaskKind, kind_names, stored_kind
from d90.tasks.metrics import LOSS
from d90.tasks.split import MAX_HELD, Split

__all__ = ["ABSENT", "MAX_HELD", "Split", "Task"]


@dataclass(frozen=True)
class Task:
    """A supervised task in up to three splits.

    Example:
        >>> task.metric, task.kind.name, len(task.labels)
        ('accuracy', 'images', 3)
        >>> len(task.limit(100, 50).train)
        100

    Attributes:
        name: as the user wrote it.
        kind: a `d90.tasks.kinds.TaskKind`, or the name of one.
        labels: the names of the classes, in order; empty where the kind has none.
        metric: a name in `d90.tasks.metrics.METRICS`, "loss" (minus the mean loss), or "script:FILE" (`d90.tasks.answers`); larger is
            better.
        train, validation, test: the splits; models are chosen on `validation`, `test` is only ever reported.
        notes: what was done to the data on the way in (a split made, rows dropped), a line each, recorded with results.
        shown_notes: of the notes those that a person should see before anything is trained: what was guessed, what looks odd.
    """

    name: str
    kind: TaskKind
    labels: tuple[str, ...]
    metric: str
    train: Split
    validation: Split
    test: Split | None = None
    notes: tuple[str, ...] = field(default=())
    shown_notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for part, split in self.splits.items():
            if len(split) == 0:
                raise InputError(f"task '{self.name}': its {part} split is empty; expected at least one example")
        if isinstance(self.kind, str):
            if self.kind not in kind_names():
                raise unknown_name("kind of task", self.kind, kind_names())
            images = isinstance(self.train.inputs, Tensor)
            object.__setattr__(self, "kind", stored_kind(self.kind, images, self.labels).fitted(self.train))
        elif isinstance(self.train.inputs, Tensor) and self.kind.takes != "images":
            object.__setattr__(self, "kind", self.kind.of_images())
        object.__setattr__(self, "kind", self.kind.scored_by(self.metric))
        object.__setattr__(self, "labels", self.kind.labels)
        self.kind.check(self.name, self.train, self.metric)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    @property
    def outputs(self) -> int:
        """How many numbers the model puts out for an example: the classes, or 1 for regression; 0 for documents, one a token."""
        return self.kind.outputs

    @property
    def texts(self) -> int:
        """How many texts an example has: one or two; 0 for images."""
        return self.kind.texts(self.train)

    @property
    def metric_name(self) -> str:
        """The metric as it is shown: F1 with the class that it is of."""
        return self.kind.metric_name(self.metric)

    def limit(self, train: int | None = None, validation: int | None = None) -> Task:
        """The task with its first `train` and `validation` examples only."""
        kept = self.train.take(train)
        return replace(self, train=kept, validation=self.validation.take(validation), kind=self.kind.fitted(kept))

    def mentions(self, words: Sequence[str]) -> bool:
        """Whether any text holds one of these words."""
        known: dict[tuple[str, ...], bool] = self.__dict__.setdefault("_mentions", {})
        key = tuple(words)
        if key not in known:
            rows = [
                row for split in self.splits.values() if not isinstance(split.inputs, Tensor) for row in split.inputs
            ]
            known[key] = any(word in text for row in rows for text in row for word in key)
        return known[key]

    def groups(self, split: str) -> Tensor | None:
        """Which independent example each of a split's examples is part of (n,): those that ask the same are one with several answers.
        None where each is one."""
        return self._groups[split]

    @cached_property
    def _groups(self) -> dict[str, Tensor | None]:
        return dict(zip(self.splits, self.kind.groups(*self.splits.values()), strict=True))

    def grouping(self, split: str) -> NDArray[numpy.int64] | None:
        """`groups`, as the analysis of scores takes them."""
        groups = self.groups(split)
        return None if groups is None else groups.numpy()

    def independent(self, split: str) -> int:
        """How many independent examples a split has."""
        groups = self.groups(split)
        return len(self.splits[split]) if groups is None else int(groups.max()) + 1

    def with_test(self) -> Task:
        """The task with a test split: its own, or a tenth of the training examples, made and noted here.

        Raises:
            InputError: too few training examples.
        """
        if self.test is not None:
            return self
        if self.independent("train") < 4:
            raise InputError(
                f"task '{self.name}' has no test split and {self.independent('train')} training examples, expected at least 4 to "
                "make one from"
            )
        rest, held = self.train.hold_out(1, self.groups("train"))
        note = f"test: {len(held)} of the training examples, drawn with the stream 'split'; not trained on"
        return replace(self, train=rest, test=held, notes=(*self.notes, note), kind=self.kind.fitted(rest))

    def with_metric(self, metric: str | None, positive: str | None = None) -> Task:
        """The task scored by another metric, and for F1 with another positive class; what F1 is of is noted.

        Raises:
            InputError: a metric that does not fit; a positive class of another metric, or one that is not there.
        """
        task = replace(self, metric=metric or self.metric)
        if positive is not None:
            if task.metric != "f1" or not isinstance(task.kind, Classification):
                raise InputError(
                    f"got positive={quoted(positive)} with metric '{task.metric}', expected it with f1, which is of one class"
                )
            task = replace(task, kind=task.kind.named(positive))
        if task.metric_name != task.metric:
            why = "as given" if positive is not None else "--positive names the other"
            note = f"metric: {task.metric_name}; {why}"
            task = replace(task, notes=(*task.notes, note), shown_notes=(*task.shown_notes, note))
        return task

    def in_order(self, labels: Sequence[str]) -> Task:
        """The task with its classes in the order of these names, which may differ in case; itself where the names are others.

        A checkpoint's own head puts out its classes in the order of its own names.
        """
        place = {name.casefold(): i for i, name in enumerate(labels)}
        mine = [name.casefold() for name in self.labels]
        if not mine or sorted(mine) != sorted(place) or mine == list(place):
            return self
        new = torch.tensor([place[name] for name in mine])

        def renumbered(split: Split) -> Split:
            return replace(split, labels=self.kind.renumbered(split.labels, new))

        ordered = tuple(sorted(self.labels, key=lambda name: place[name.casefold()]))
        return replace(
            self,
            kind=replace(self.kind, labels=ordered),
            labels=ordered,
            train=renumbered(self.train),
            validation=renumbered(self.validation),
            test=None if self.test is None else renumbered(self.test),
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over every input and label of every split, in order: part of every trial's key."""
        marks = self.kind.marks if self.metric == "f1" or not self.labels else ""
        metric = SCRIPT if self.metric.startswith(SCRIPT) else self.metric  # its text is among the marks
        if metric in CORPUS_METRICS and any(
            len(set(map(self.kind.source, one.inputs))) < len(one) for one in self.splits.values()
        ):
            metric += "|each source once"  # as it was not always
        digest = hashlib.sha256(f"{self.kind.stored}|{metric}|{'|'.join(self.labels)}{marks}".encode())
        for name, split in self.splits.items():
            digest.update(f"\0{name}\0{len(split)}\0".encode())
            if isinstance(split.inputs, Tensor):
                digest.update(split.inputs.contiguous().numpy().tobytes())
            else:
                for texts in split.inputs:
                    digest.update("\x1f".join(texts).encode("utf-8", "surrogatepass") + b"\x1e")
            digest.update(split.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def paired_labels(self) -> Tensor:
        """What the stored predictions of validation examples are held against where two models are compared (n,): of answers, which
        are stored as right or wrong, 1."""
        labels = self.validation.labels
        return torch.ones_like(labels) if self.kind.asks(self.metric) else labels

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The kind's mean loss over examples, in the unit that is shown."""
        return self.kind.loss(outputs, labels)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Class numbers, or values, from the model's outputs (n, `self.outputs`)."""
        return self.kind.predict(outputs)

    def evidence(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What a store keeps of each example (n,): its prediction; its loss where classes are scored by the loss."""
        by_loss = self.metric == LOSS and self.kind.classes
        return self.kind.losses(outputs, labels).float() if by_loss else self.predictions(outputs)

    def score(self, outputs: Tensor, split: str = "validation") -> float:
        """The metric of the model's outputs on one split; larger is better.

        Raises:
            InputError: a metric of answers, which outputs do not tell (`d90.training.evaluation.assess`).
        """
        if self.kind.asks(self.metric):
            raise InputError(f"got outputs to score by '{self.metric}', expected answers; {LOSS} is of outputs")
        return self.kind.score(self.metric, outputs, self.splits[split].labels)

    def chance(self, split: str = "validation", vocabulary: int | None = None) -> float:
        """The score of the best constant guess made from the training labels: needs no model.

        Args:
            split: whose labels count.
            vocabulary: V, of a causal language model.

        Raises:
            InputError: documents without V.
        """
        return self.kind.constant(self.metric, self.train, self.splits[split], vocabulary)
