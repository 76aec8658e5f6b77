"""What a kind of task is: how rows become examples, the model that serves it, its loss, predictions and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from d90.errors import InputError, unknown_name
from d90.tasks.columns import Columns, Table
from d90.tasks.metrics import LOSS
from d90.tasks.split import Split

__all__ = ["Reading", "TaskKind", "Tokens"]


class Tokens(NamedTuple):
    """Examples that a kind has encoded itself.

    Attributes:
        ids: token ids, a list for each example.
        scored: which of them are to be predicted, in the same shape.
        truncated: how many examples were cut.
    """

    ids: list[list[int]]
    scored: list[list[bool]]
    truncated: int


@dataclass(frozen=True)
class Reading:
    """Rows as a kind reads them: the kind with what it learnt from them, the splits, and what is worth a note."""

    kind: TaskKind
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskKind(ABC):
    """One kind of task. Subclasses are frozen dataclasses, registered by name (`d90.tasks.kinds.register_kind`).

    Class attributes:
        name: as `--kind` takes it.
        stored: the word in files and fingerprints; the name unless said otherwise.
        summary: a line for lists.
        takes: "texts" or "images".
        auto_class: of transformers, that loads a model for it; None where modules take the inputs as tensors.
        problem: the `problem_type` of the model's config, where it has one.
        metrics: those it can be scored by, besides the loss; the first is its own.
        generative: whether the model keeps the output matrix it came with, and is asked for no number of outputs.
        right_or_wrong: whether each prediction is either, so that an error rate can be counted and bounded.

    Attributes:
        labels: the names of the classes, in order; empty where there are none.
    """

    name: ClassVar[str]
    stored: ClassVar[str]
    summary: ClassVar[str]
    takes: ClassVar[str] = "texts"
    auto_class: ClassVar[str | None] = "AutoModelForSequenceClassification"
    problem: ClassVar[str | None] = None
    metrics: ClassVar[tuple[str, ...]] = ()
    generative: ClassVar[bool] = False
    right_or_wrong: ClassVar[bool] = False

    labels: tuple[str, ...] = ()

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """Whether a training table looks like this kind, where the user names none."""
        return False

    @classmethod
    @abstractmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """The splits of tables; `train` is among them.

        Args:
            given: the user named the kind; else it was recognised.

        Raises:
            InputError: what is wrong in which row.
        """

    def fitted(self, train: Split) -> TaskKind:
        """The kind with what it takes from the training labels; itself where it takes nothing."""
        return self

    def check(self, task: str, train: Split, metric: str) -> None:
        """Refuse a metric or training labels that make no sense.

        Raises:
            InputError: which, and what was expected.
        """
        from d90.tasks.metrics import METRICS

        if metric not in (*METRICS, LOSS):
            raise unknown_name("metric", metric, (*METRICS, LOSS))
        if metric not in (*self.metrics, LOSS):
            raise InputError(
                f"task '{task}': got metric '{metric}' for a {self.name}, expected {' or '.join((*self.metrics, LOSS))}. "
                "Likely cause: numbers taken for classes or the reverse; say which with kind"
            )

    @property
    def own_metric(self) -> str:
        """The metric of a task that names none."""
        return self.metrics[0] if self.metrics else LOSS

    @property
    def marks(self) -> str:
        """What of the kind's own choices a fingerprint holds, beyond name, metric and labels; empty for most."""
        return ""

    @property
    def record(self) -> dict[str, Any]:
        """What a finished tune keeps of the kind, as JSON; `restored` takes it."""
        return {}

    def restored(self, record: Mapping[str, Any]) -> TaskKind:
        """The kind with what a finished tune kept (`record`)."""
        return self

    def tokens(
        self, tokenizer: Any, inputs: Sequence[tuple[str, ...]], longest: int | None, split_special: bool, name: str
    ) -> Tokens | None:
        """The examples as token ids, where the kind makes them; None: as texts are (`d90.models.encoding`).

        Args:
            longest: tokens that the model takes at most.
            split_special: whether what looks like a special token in a text is text.
            name: of the model, for messages.
        """
        return None

    @property
    def cut(self) -> str:
        """What is said of texts that were longer than the model takes."""
        return "were truncated"

    # --- model -----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers the model puts out for an example; 0 where that is not asked of it."""

    def predicting(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """At which of a batch's tokens logits are asked, (n, tokens); None: of all the model gives."""
        return None

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What is kept of a model's logits on one batch, (n, outputs)."""
        return logits

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Each example's loss (n,), in the unit of what is told."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean over examples of `losses`."""
        return self.losses(outputs, labels).mean()

    def training_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What is minimised; times `unit` it is `loss`."""
        return self.loss(outputs, labels)

    @property
    def unit(self) -> float:
        """The loss that is told over the one that is minimised."""
        return 1.0

    # --- predictions -----------------------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Predictions (n,) from the model's outputs (n, outputs), as the labels are."""

    @abstractmethod
    def describe(self, output: Tensor) -> dict[str, Any]:
        """One example's output as a person reads it: JSON values by name, the answer first."""

    @abstractmethod
    def score(self, metric: str, outputs: Tensor, labels: Tensor) -> float:
        """A metric of outputs; larger is better."""

    @abstractmethod
    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """The score on `labels` of the best guess that sees no input, made from the training labels."""

    def metric_name(self, metric: str) -> str:
        """A metric as it is shown: with the class it speaks of, where it speaks of one."""
        return metric


def constant(values: Tensor, rows: int) -> Tensor:
    """The same outputs for every example: (rows, outputs)."""
    return torch.as_tensor(values).float().expand(rows, -1)
