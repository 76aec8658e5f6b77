"""Documents whose tokens are predicted in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Prediction, Reading, TaskKind
from d90.tasks.split import Split

__all__ = ["ABSENT", "Language"]

ABSENT = -1.0  # among a document's nats, which are >= 0: there is no token
_ASIDES = {
    "id",
    "meta",
    "metadata",
    "source",
    "url",
    "title",
    "timestamp",
    "date",
    "author",
    "lang",
    "language",
    "subset",
}


@dataclass(frozen=True)
class Language(TaskKind):
    """Each example is a document; the loss is the mean over documents of each one's mean nats a token."""

    name: ClassVar[str] = "language"
    stored: ClassVar[str] = "language"
    summary: ClassVar[str] = "documents for a causal language model, whose tokens are predicted in turn"
    auto_class: ClassVar[str | None] = "AutoModelForCausalLM"
    filler: ClassVar[float] = ABSENT
    beside: ClassVar[tuple[str, ...]] = ("scored",)
    generative: ClassVar[bool] = True
    hub_task: ClassVar[str | None] = "text-generation"
    peft_task: ClassVar[str | None] = "CAUSAL_LM"
    encoder_decoder: ClassVar[bool | None] = False

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """A single text column and beside it nothing but what tells of the text: no label that was named or that may be one."""
        row, names = table.rows[0], columns.find(table.rows[0])
        if names is None or len(names) != 1 or columns.given_label or columns.label in row or "labels" in row:
            return False
        others = {key: value for key, value in row.items() if key not in names}
        return all(isinstance(v, list | dict) or str(key).lower() in _ASIDES for key, v in others.items())

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Each row's text is a document."""
        if columns.given_label:
            raise InputError("got a label column for documents, which have none; leave --label out")
        splits = {part: documents(columns.texts(table, labelled=False)) for part, table in tables.items()}
        if len(splits["train"].inputs[0]) != 1:
            raise InputError("got two text columns for documents, expected one; name it with --text")
        notes = [f"{sum(map(len, splits.values())):,} documents, a row each"]
        notes += [] if given else ["kind: language, guessed as there is no label column; --label names one"]
        return Reading(cls(), splits, tuple(notes))

    def check(self, task: str, train: Split, metric: str) -> None:
        """The loss alone."""
        from d90.tasks.metrics import LOSS, METRICS

        if metric in METRICS:
            raise InputError(f"task '{task}': got metric '{metric}' for documents, expected {LOSS}; leave it out")
        super().check(task, train, metric)

    @property
    def outputs(self) -> int:
        """One a token: not asked of a model."""
        return 0

    def collate(self, examples: Sequence[Mapping[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
        """As the others, with the tokens that are to be predicted ("scored"): all, where the examples do not say."""
        batch = super().collate(examples, tokenizer)
        there = batch["attention_mask"] != 0
        batch["scored"] = there if "scored" not in batch else (batch["scored"] != 0) & there
        return batch

    def predicting(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Where the token that follows counts, (n, tokens)."""
        counted = batch["scored"] if "scored" in batch else batch["attention_mask"] != 0
        return torch.nn.functional.pad(counted[:, 1:], (0, 1))

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Each token's nats (n, tokens - 1): the first is given; `ABSENT` where nothing counts, as behind a document's end.

        Args:
            logits: (n, tokens, V), or (k, V) at the k places that `predicting` names, in their order.
        """
        places = self.predicting(batch).to(logits.device)
        ids = batch["input_ids"].to(logits.device)
        flat = logits if logits.dim() == 2 else logits[places]
        # over (k, V): the same over (n, V, tokens) takes more than twice as long
        nats = torch.nn.functional.cross_entropy(flat.float(), ids[:, 1:][places[:, :-1]], reduction="none")
        return nats.new_full(ids[:, 1:].shape, ABSENT).masked_scatter(places[:, :-1], nats)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Each document's mean nats; `labels` are not looked at."""
        there = outputs != ABSENT  # not a comparison of size: a value that is not finite must stay and be seen
        return outputs.where(there, 0.0).sum(dim=1) / there.sum(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Nothing is chosen: each document's mean nats."""
        return self.losses(outputs, outputs)

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """Mean nats a token and how many tokens."""
        return {"nats": self.losses(output[None], output).item(), "tokens": int((output != ABSENT).sum())}

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """The uniform guess among the model's V tokens, -ln V."""
        if vocabulary is None:
            raise InputError(
                "got documents without vocabulary=V, expected V: chance is the uniform guess among a model's V tokens"
            )
        return -math.log(vocabulary)


def documents(texts: list[tuple[str, ...]]) -> Split:
    """Documents as a split: their tokens are their own labels."""
    return Split(texts, torch.zeros(len(texts), dtype=torch.int64))
