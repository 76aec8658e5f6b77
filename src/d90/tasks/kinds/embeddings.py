"""Texts as vectors: near where they mean the same. Pairs with a number, or pairs and triplets of what belongs together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError, quoted, unknown_name
from d90.files import Json
from d90.search.rules import Scale, set_scale
from d90.tasks.columns import Columns, Table, check_text
from d90.tasks.encoded import Encoded, Encoder
from d90.tasks.kinds.base import Prediction, Reading, TaskKind, padded
from d90.tasks.labels import raw_labels, values
from d90.tasks.metrics import LOSS
from d90.tasks.split import Split

__all__ = ["POOLINGS", "Embeddings"]

POOLINGS = ("mean", "cls", "lasttoken")
SHARPNESS = 20.0  # of the softmax over cosines, as sentence-transformers' MultipleNegativesRankingLoss has it
RECALLS = {"recall_1": 1, "recall_10": 10}
CORRELATIONS = ("spearman", "pearson")
NO_TEXT = -1
for _metric in RECALLS:
    set_scale(_metric, Scale(share=True, proportion=True))


@dataclass(frozen=True)
class Embeddings(TaskKind):
    """Vectors e of length 1, the mean of a text's last states (or its first or last token's, as the model's folder says).

    Pairs with a number y: (cos(e_1, e_2) - t)^2, t = (y - low) / (high - low). Pairs that belong together, with a third text that does not
    where there is one: -ln softmax over all second and third texts at hand of 20 cos. Validation takes those of the whole split.

    Attributes:
        numbers: whether pairs have numbers.
        low, high: the numbers that stand for cosines of 0 and 1: those of the training labels.
    """

    name: ClassVar[str] = "embeddings"
    stored: ClassVar[str] = "embeddings"
    summary: ClassVar[str] = (
        "vectors of texts: pairs with a number, or anchor and positive (and negative); sentence-transformers"
    )
    auto_class: ClassVar[str | None] = "AutoModel"
    metrics: ClassVar[tuple[str, ...]] = (*RECALLS, *CORRELATIONS)
    beside: ClassVar[tuple[str, ...]] = ("owner", "side", "weight")
    pools: ClassVar[bool] = True
    mistake: ClassVar[str] = "whether a text is found depends on the others: they are not independent"
    hub_task: ClassVar[str | None] = "sentence-similarity"
    peft_task: ClassVar[str | None] = "FEATURE_EXTRACTION"
    encoder_decoder: ClassVar[bool | None] = False
    sources_are: ClassVar[str] = "anchors"

    numbers: bool = False
    low: float = 0.0
    high: float = 1.0

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """Columns anchor and positive."""
        return not columns.text and all(isinstance(table.rows[0].get(name), str) for name in ("anchor", "positive"))

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Pairs or triplets; numbers where a label column was named or is there."""
        train = tables["train"]
        names = _names(train, columns)
        label = next(
            (one for one in (columns.given_label, "label", "score") if one is not None and one in train.rows[0]), None
        )
        if columns.given_label and label != columns.given_label:
            raise InputError(
                f"{train.where}: no label column {quoted(columns.given_label)}. Name it with --label, or leave it out"
            )
        splits = {}
        for part, table in tables.items():
            texts = [
                tuple(check_text(row.get(name), name, table.spot(i)) for name in names)
                for i, row in enumerate(table.rows)
            ]
            empty = next((i for i, row in enumerate(texts) if not all(text.strip() for text in row)), None)
            if empty is not None:
                raise InputError(f"{table.spot(empty)}: an empty text, expected {' and '.join(names)}; drop the row")
            labels = torch.zeros(len(texts)) if label is None else values(raw_labels(table, label)[0], table)
            splits[part] = Split(texts, labels)
        if label is not None and len(names) > 2:
            raise InputError(
                f"{train.where}: triplets with numbers in column {quoted(label)}, expected one of both; name two texts with --text"
            )
        counted = (
            f"numbers in {quoted(label)} are cosines"
            if label is not None
            else f"{' and '.join(names[:2])} belong together"
        )
        notes = [counted] + ([] if given else ["kind: embeddings, guessed from the columns; --kind names another"])
        return Reading(cls(numbers=label is not None), splits, tuple(notes))

    def source(self, example: tuple[str, ...]) -> str | None:
        """The anchor, which several texts may belong to; of pairs with numbers nothing, for either text may stand in others."""
        return None if self.numbers else example[0]

    def fitted(self, train: Split) -> TaskKind:
        """With the least and greatest of the training numbers; 0 to 1 where they lie between."""
        if not self.numbers:
            return self
        low, high = min(0.0, train.labels.min().item()), max(1.0, train.labels.max().item())
        return replace(self, low=low, high=high)

    def check(self, task: str, train: Split, metric: str) -> None:
        """Correlations of numbers, recall of pairs."""
        known = (LOSS, *(CORRELATIONS if self.numbers else RECALLS))
        if metric not in known:
            raise unknown_name(f"metric of {self.name} for task '{task}':", metric, known)

    @property
    def own_metric(self) -> str:
        """Spearman's correlation, or the share of texts whose own partner is nearest."""
        return "spearman" if self.numbers else "recall_1"

    @property
    def marks(self) -> str:
        """What the loss is of."""
        return "|numbers" if self.numbers else "|pairs"

    @property
    def record(self) -> Json:
        """What the numbers stand for."""
        return {"numbers": True, "low": self.low, "high": self.high} if self.numbers else {}

    def restored(self, record: Json) -> Embeddings:
        """As a finished tune was trained."""
        low, high = float(record.get("low", 0.0)), float(record.get("high", 1.0))
        return replace(self, numbers=record.get("numbers") is True, low=low, high=high)

    def texts(self, split: Split) -> int:
        """One: each text has a vector of its own."""
        return 1

    # --- batches -----------------------------------------------------------------------------------------------------

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor:
        """The token ids of an example's texts one behind another, which text each is of, and which count in its mean."""
        assert not isinstance(split.inputs, Tensor)
        sides = [encoder.texts([(row[k],) for row in split.inputs]) for k in range(len(split.inputs[0]))]
        found: dict[str, list[list[int]]] = {
            name: [[] for _ in split.inputs] for name in ("input_ids", "side", "weight")
        }
        for number, side in enumerate(sides):
            for i, ids in enumerate(side.ids):
                found["input_ids"][i] += ids
                found["side"][i] += [number] * len(ids)
                found["weight"][i] += _weights(encoder.pooling, len(ids))
        return Encoded(found, sum(side.truncated for side in sides))

    def collate(self, examples: Sequence[Mapping[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
        """A row for each text; "owner" is the example that it is of."""
        rows, owners = [], []
        for number, example in enumerate(examples):
            for side in range(int(example["side"].max()) + 1):
                inside = example["side"] == side
                rows.append({name: values[inside] for name, values in example.items()})
                owners.append(number)
        batch = padded(rows, tokenizer, {"side": NO_TEXT})
        batch["owner"] = torch.tensor(owners)
        return batch

    # --- model -------------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> int:
        """None is asked of the model: its last states are pooled."""
        return 0

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The vectors of each example's texts (n, texts, width), of length 1.

        Args:
            logits: the last states (rows, tokens, width).
        """
        weight = batch["weight"].to(logits.device).float()[..., None]
        pooled = (logits.float() * weight).sum(dim=1) / weight.sum(dim=1)
        vectors = torch.nn.functional.normalize(pooled, dim=-1)
        n = int(batch["owner"].max()) + 1
        return vectors.reshape(n, len(vectors) // n, -1)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Each example's: squared errors in the unit of the labels, or nats."""
        if self.numbers:
            return (self.predict(outputs) - labels).square()
        right = torch.arange(len(outputs), device=outputs.device)
        return torch.nn.functional.cross_entropy(SHARPNESS * self._cosines(outputs), right, reduction="none")

    def _cosines(self, outputs: Tensor) -> Tensor:
        """Of each first text with all second texts, then with all third ones (n, 2 n)."""
        others = outputs[:, 1:].transpose(0, 1).flatten(0, 1)
        return outputs[:, 0] @ others.T

    def training_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Of numbers the squared error of the cosine."""
        return self.loss(outputs, labels) / self.unit

    @property
    def unit(self) -> float:
        """(high - low)^2, of a squared error."""
        return (self.high - self.low) ** 2 if self.numbers else 1.0

    # --- predictions -------------------------------------------------------------------------------------------------

    def predict(self, outputs: Tensor) -> Tensor:
        """Numbers from cosines (n,); or how many texts are at least as near as the one that belongs there (n,), int64."""
        if self.numbers:
            return self.low + (self.high - self.low) * (outputs[:, 0] * outputs[:, 1]).sum(dim=-1)
        cosines = self._cosines(outputs)
        own = cosines.diagonal()[:, None]
        return (cosines >= own).sum(dim=1) - 1

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """A correlation, or the share of first texts whose own second text is among the k nearest."""
        if metric in RECALLS:
            return (predicted < RECALLS[metric]).double().mean().item()
        return super().measure(metric, predicted, labels)

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """A text's vector."""
        return {"embedding": [round(one, 6) for one in output[0].tolist()]}

    def describe_all(self, outputs: Tensor, texts: Sequence[tuple[str, ...]]) -> list[Prediction]:
        """With the nearest of the other texts, and its cosine."""
        found = []
        cosines = outputs[:, 0] @ outputs[:, 0].T
        cosines.fill_diagonal_(-math.inf)
        for i, output in enumerate(outputs):
            near = int(cosines[i].argmax())
            nearest = {"nearest": texts[near][0], "similarity": cosines[i, near].item()} if len(texts) > 1 else {}
            found.append({**nearest, **self.describe(output)})
        return found

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """One vector for every text: no recall, no correlation; for the loss the mean number, or all texts equally near."""
        if metric != LOSS:
            return 0.0
        return -(labels - train.mean()).square().mean().item() if self.numbers else -math.log(len(labels))


def _names(table: Table, columns: Columns) -> tuple[str, ...]:
    """The columns of the texts.

    Raises:
        InputError: there are none.
    """
    row = table.rows[0]
    if columns.text is None and "anchor" in row and "positive" in row:
        return ("anchor", "positive", "negative") if "negative" in row else ("anchor", "positive")
    found = columns.find(row)
    if found is None or len(found) != 2:
        shown = ", ".join(quoted(name)[1:-1] for name in list(row)[:20])
        raise InputError(
            f"{table.where}: it has {shown}, expected anchor and positive (and negative), or two texts named with --text A,B"
        )
    return found


def _weights(pooling: str, length: int) -> list[int]:
    """Which of a text's tokens count in its mean."""
    if pooling == "mean":
        return [1] * length
    return [int(i == (0 if pooling == "cls" else length - 1)) for i in range(length)]
