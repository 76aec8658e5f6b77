"""Batches: examples in the model's terms, bucketed by length, padded to the longest in the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from d90.models.loading import Model, encode
from d90.projections.philox import permutation
from d90.tasks import Split, TaskKind
from d90.tasks.kinds import Language

__all__ = ["Batches", "device_of", "outputs_of"]

WINDOW = 64  # batches whose examples are sorted by length together


class Batches:
    """One split, encoded for one model.

    Args:
        model: gives the tokenizer and the longest input.
        split: the examples; images are taken as they are.
        kind: says what is kept of the model's outputs; those of documents for a causal model by default, else all.

    `truncated` counts the texts that were longer than the model takes.
    """

    def __init__(self, model: Model, split: Split, kind: TaskKind | None = None) -> None:
        self.kind = kind if kind is not None else Language() if model.vocabulary is not None else None
        self.labels = split.labels
        self.truncated = 0
        self._images: Tensor | None = None
        if isinstance(split.inputs, Tensor):
            self._images = split.inputs
            self.lengths = torch.zeros(len(split), dtype=torch.int64)
            return
        encoded = encode(model, split.inputs, self.kind)
        self.truncated = encoded.truncated
        self.lengths = torch.tensor([len(ids) for ids in encoded.ids])
        model.choose_attention(int(self.lengths.max()))
        self._starts = self.lengths.cumsum(0) - self.lengths
        self._ids = torch.tensor([i for ids in encoded.ids for i in ids])
        self._types = None if encoded.types is None else torch.tensor([i for types in encoded.types for i in types])
        self._scored = None if encoded.scored is None else torch.tensor([c for row in encoded.scored for c in row])
        self._pad = int(getattr(model.tokenizer, "pad_token_id", None) or 0)
        self._masked = (
            not model.inputs or "attention_mask" in model.inputs
        )  # some, as FNet, see padding as they see words

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, chosen: Tensor) -> dict[str, Tensor] | Tensor:
        """The model's inputs for the examples with these numbers: images, or ids, mask and types padded to the longest.

        For a language model also `scored`, which tokens count; `outputs_of` keeps it from the model.
        """
        if self._images is not None:
            return self._images[chosen]
        lengths = self.lengths[chosen]
        place = torch.arange(int(lengths.max()))
        mask = place < lengths[:, None]
        where = (self._starts[chosen][:, None] + place).clamp_(max=len(self._ids) - 1)
        batch = {"input_ids": self._ids[where].masked_fill_(~mask, self._pad), "attention_mask": mask.long()}
        if self._types is not None:
            batch["token_type_ids"] = self._types[where].masked_fill_(~mask, 0)
        if self.kind is not None and self.kind.generative:
            batch["scored"] = mask if self._scored is None else self._scored[where] & mask
        if not self._masked:
            del batch["attention_mask"]
        return batch

    def shuffled(self, size: int, seed: int, epoch: int) -> list[Tensor]:
        """One epoch's batches as example numbers: shuffled by our own bits, sorted by length inside windows, batches shuffled."""
        order = permutation(seed, "shuffle", 2 * epoch, len(self))
        windows = order.split(size * WINDOW)
        batches = [b for w in windows for b in w[torch.argsort(self.lengths[w], stable=True)].split(size)]
        return [batches[i] for i in permutation(seed, "shuffle", 2 * epoch + 1, len(batches)).tolist()]

    def by_length(self, size: int) -> Iterator[Tensor]:
        """All examples, longest first, for evaluation."""
        yield from torch.argsort(self.lengths, descending=True, stable=True).split(size)


def device_of(module: nn.Module) -> torch.device:
    """Where a model is."""
    return next(module.parameters()).device


def outputs_of(module: nn.Module, batch: dict[str, Tensor] | Tensor, kind: TaskKind | None = None) -> Tensor:
    """What a kind of task keeps of the model's logits on one batch, (n, outputs); the logits as they are without a kind."""
    device = device_of(module)
    if isinstance(batch, Tensor):
        result: Any = module(batch.to(device))
    else:
        given = {name: tensor.to(device) for name, tensor in batch.items() if name != "scored"}
        places = kind.predicting(batch) if kind is not None else None
        with _only_at(module, None if places is None else places.to(device)):
            result = module(**given)
    logits: Tensor = result if isinstance(result, Tensor) else result.logits
    if kind is None or isinstance(batch, Tensor):
        return logits
    if places is not None and logits.shape[:-1] != places.shape:
        logits = logits.flatten(0, -2)  # (k, V): those at the places
    return kind.outputs_of(logits, batch)


@contextmanager
def _only_at(module: nn.Module, places: Tensor | None) -> Iterator[None]:
    """Give the output matrix the hidden states at these places alone, (1, k, width): the model's own forward and hooks still run.

    A model whose output matrix is no module of its own, or is given other positions, computes all logits as ever.
    """
    find = getattr(module, "get_output_embeddings", None)
    head = find() if places is not None and find is not None else None
    if not isinstance(head, nn.Module):
        yield
        return

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        assert places is not None
        if not args or args[0].shape[:-1] != places.shape:
            return None
        return (args[0][places][None], *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
