"""Documents with some of their tokens hidden, which a model that sees both sides predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError
from d90.projections.philox import uniforms
from d90.tasks.columns import Columns, Table
from d90.tasks.encoded import Encoded, Encoder
from d90.tasks.kinds.base import TaskKind
from d90.tasks.kinds.language import ABSENT, Language
from d90.tasks.metrics import LOSS
from d90.tasks.split import Split

__all__ = ["Masked"]

SHARE = 0.15  # of the tokens that are hidden, as BERT's
MASKED, REPLACED = (
    0.8,
    0.1,
)  # of these the mask stands there, or another token; the rest are seen, and asked for all the same
SEED = 0
NOT_ASKED = -100


@dataclass(frozen=True)
class Masked(Language):
    """Each example is a document; the loss is the mean over documents of each one's mean nats a hidden token.

    15 % of the tokens are hidden, one at least, as BERT hides them. Which ones is drawn from an example's number: for an evaluation always
    the same, in training others at each step.
    """

    name: ClassVar[str] = "masked"
    stored: ClassVar[str] = "masked"
    summary: ClassVar[str] = (
        "documents with hidden tokens, for a masked language model such as BERT; only with --kind masked"
    )
    auto_class: ClassVar[str | None] = "AutoModelForMaskedLM"
    generative: ClassVar[bool] = False
    fills: ClassVar[bool] = True
    mistake: ClassVar[str] = "a text's hidden tokens are right in part"
    beside: ClassVar[tuple[str, ...]] = ("target",)
    hub_task: ClassVar[str | None] = "fill-mask"
    peft_task: ClassVar[str | None] = None

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """Only where it is named: such a table is one of documents."""
        return False

    # --- batches -----------------------------------------------------------------------------------------------------

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor:
        """Token ids, which of them may be hidden, and each example's number."""
        assert not isinstance(split.inputs, Tensor)
        found = encoder.texts([row[:1] for row in split.inputs])
        marks = set(encoder.tokenizer.all_special_ids) - {encoder.tokenizer.unk_token_id}
        free = [[int(token not in marks) for token in ids] for ids in found.ids]
        bare = next((i for i, row in enumerate(free, start=1) if not any(row)), None)
        if bare is not None:
            raise InputError(f"document {bare} has no token to hide, expected some text; drop it")
        features = {**found.features, "free": free, "number": [[i] for i in range(len(free))]}
        return Encoded(features, found.truncated)

    def collate(self, examples: Sequence[Mapping[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
        """With some tokens hidden ("target" has them, `NOT_ASKED` elsewhere); "visit" decides which, 0 where it is not given."""
        numbers = torch.cat([example["number"] for example in examples])
        visits = torch.cat([example.get("visit", torch.zeros(1).long()) for example in examples])
        kept = [{name: one[name] for name in one if name not in ("number", "visit")} for one in examples]
        batch = TaskKind.collate(self, kept, tokenizer)
        ids, free = batch["input_ids"], batch.pop("free") != 0
        # four words a token, in its place's group: what stands behind a document changes nothing
        drawn = uniforms(SEED, "mask", (visits << 32) + numbers, 4 * ids.shape[1]).reshape(*ids.shape, 4)
        chance = drawn[..., 0].masked_fill(~free, math.inf)
        hidden = chance <= chance.amin(dim=1, keepdim=True).clamp(min=SHARE)
        batch["target"] = ids.where(hidden & free, NOT_ASKED)
        how, which = drawn[..., 1], (drawn[..., 2] * len(tokenizer)).long().clamp(max=len(tokenizer) - 1)
        seen = ids.where(how >= MASKED, int(tokenizer.mask_token_id))
        seen = which.where((how >= MASKED) & (how < MASKED + REPLACED), seen)
        batch["input_ids"] = seen.where(hidden & free, ids)
        return batch

    # --- model -------------------------------------------------------------------------------------------------------

    def predicting(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Where a token is hidden."""
        return batch["target"] != NOT_ASKED

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Each hidden token's nats (n, tokens); `ABSENT` elsewhere.

        Args:
            logits: (n, tokens, V), or (k, V) at the k places that `predicting` names, in their order.
        """
        target = batch["target"].to(logits.device)
        places = self.predicting(batch).to(logits.device)
        flat = logits if logits.dim() == 2 else logits[places]
        nats = torch.nn.functional.cross_entropy(flat.float(), target[places], reduction="none")
        return nats.new_full(target.shape, ABSENT).masked_scatter(places, nats)

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Not found in labels.

        Raises:
            InputError: always; `unigram` has the tokens.
        """
        raise InputError(
            "got documents without their tokens, expected a model: chance is how often each token stands in training"
        )

    def unigram(self, train: Tensor, hidden: Tensor, vocabulary: int) -> float:
        """The score of each token's frequency in training, one added to each count.

        Args:
            train: the training documents' tokens, in one row.
            hidden: the hidden tokens (n, tokens), `NOT_ASKED` elsewhere.
        """
        counts = torch.bincount(train, minlength=vocabulary).double() + 1
        nats = -(counts / counts.sum()).log()
        there = hidden != NOT_ASKED
        return self.score(LOSS, nats[hidden.clamp(min=0)].where(there, ABSENT), hidden)
