"""One of several choices for a question: exams, endings of stories, causes and effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError
from d90.tasks.choices import has_choices, passages_of, questions_with_choices, right_place
from d90.tasks.columns import Columns, Table
from d90.tasks.encoded import Encoded, Encoder
from d90.tasks.kinds.base import Prediction, Reading, TaskKind, padded
from d90.tasks.kinds.language import ABSENT, Language
from d90.tasks.metrics import LOSS
from d90.tasks.split import Sources, Split

__all__ = ["Choices"]

SCORED = "scored"


@dataclass(frozen=True)
class Choices(TaskKind):
    """One of a question's choices; cross-entropy of a number for each.

    The number is what a head for multiple choice gives the pair of question and choice; of a causal language model,
    ln p(choice | question), the sum over the choice's tokens.
    """

    name: ClassVar[str] = "multiple-choice"
    stored: ClassVar[str] = "multiple-choice"
    summary: ClassVar[str] = (
        "one of a question's choices: columns question, choices and answer; causal models by likelihood"
    )
    auto_class: ClassVar[str | None] = "AutoModelForMultipleChoice"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    beside: ClassVar[tuple[str, ...]] = ("owner", SCORED)
    right_or_wrong: ClassVar[bool] = True
    mistake: ClassVar[str] = "a wrong choice"
    hub_task: ClassVar[str | None] = "multiple-choice"
    shown: ClassVar[str] = "question"

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """A question and its choices."""
        return has_choices(table.rows[0], columns)

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Each question with its choices; the label is the place of the right one."""
        splits = {}
        for part, table in tables.items():
            found = questions_with_choices(table, columns)
            passages = passages_of(table, columns)
            drawn = None if passages is None else Sources(tuple(passages), "passages")
            splits[part] = Split(found, torch.tensor(right_place(table, columns, found)), drawn)
        count = len(splits["train"].inputs[0]) - 1
        other = next((part for part, split in splits.items() if len(split.inputs[0]) - 1 != count), None)
        if other is not None:
            raise InputError(
                f"{tables[other].where}: {len(splits[other].inputs[0]) - 1} choices and the training data has {count}, expected as many"
            )
        notes = [f"{count} choices a question"]
        notes += [] if given else [f"kind: {cls.name}, guessed from the columns; --kind names another"]
        return Reading(cls(), splits, tuple(notes))

    @classmethod
    def given_texts(cls, table: Table, columns: Columns, width: int) -> list[tuple[str, ...]]:
        """Questions and their choices."""
        found = questions_with_choices(table, columns)
        if len(found[0]) != width:
            raise InputError(f"{table.where}: {len(found[0]) - 1} choices, expected {width - 1} as in training")
        return found

    # --- batches -----------------------------------------------------------------------------------------------------

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor:
        """The token ids of each choice with its question, one behind another, and which choice each is of."""
        assert not isinstance(split.inputs, Tensor)
        return encoder.choices(split.inputs)

    def collate(self, examples: Sequence[Mapping[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
        """(n, choices, longest); of a causal model, whose choices' tokens are marked, (n choices, longest)."""
        rows = []
        for example in examples:
            for side in range(int(example["side"].max()) + 1):
                inside = example["side"] == side
                rows.append({name: values[inside] for name, values in example.items() if name != "side"})
        batch = padded(rows, tokenizer, self.padding)
        count = len(rows) // len(examples)
        if SCORED in batch:
            batch[SCORED] = batch[SCORED] != 0
            batch["owner"] = torch.arange(len(examples)).repeat_interleave(count)
            return batch
        return {name: values.unflatten(0, (len(examples), count)) for name, values in batch.items()}

    # --- model -------------------------------------------------------------------------------------------------------

    def opened_as(self, serves: Callable[[str], bool]) -> TaskKind:
        """A causal language model where transformers has no head for choices."""
        causal = not serves(str(self.auto_class)) and serves(str(Language.auto_class))
        return Language() if causal else self

    @property
    def outputs(self) -> int:
        """Not asked of the model: one for each choice."""
        return 0

    def predicting(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Of a causal model: where a token of the choice follows."""
        return Language().predicting(batch) if SCORED in batch else None

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """A number for each choice (n, choices).

        Args:
            logits: they, or a causal model's over the vocabulary.
        """
        if SCORED not in batch:
            return logits
        nats = Language().outputs_of(logits, batch)
        n = int(batch["owner"].max()) + 1
        return -nats.where(nats != ABSENT, 0.0).sum(dim=1).unflatten(0, (n, len(nats) // n))

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over each question's choices, in nats."""
        return torch.nn.functional.cross_entropy(outputs.float(), labels, reduction="none")

    # --- predictions -------------------------------------------------------------------------------------------------

    def predict(self, outputs: Tensor) -> Tensor:
        """The place of the likeliest choice."""
        return outputs.argmax(dim=-1)

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """The choice, its probability among them, its place from 1, and every choice's probability."""
        shares = output.float().softmax(dim=-1).tolist()
        best = max(range(len(shares)), key=shares.__getitem__)
        texts = example[1:] or tuple(map(str, range(1, len(shares) + 1)))
        return {
            "answer": texts[best],
            "probability": shares[best],
            "choice": best + 1,
            "probabilities": {str(i): share for i, share in enumerate(shares, start=1)},
        }

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Always the commonest place in training; for the loss the places' frequencies."""
        counts = torch.bincount(train, minlength=int(labels.max()) + 1)
        if metric == LOSS:
            return self.score(metric, counts.float().clamp(min=1e-3).log().expand(len(labels), -1), labels)
        return self.measure(metric, counts.argmax().expand_as(labels).clone(), labels)
