"""Batches: examples in the model's terms, bucketed by length, collated by their kind of task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from d90.models.encoding import ModelEncoder
from d90.models.model import Model
from d90.projections.philox import permutation
from d90.tasks import Split, TaskKind
from d90.tasks.encoded import Encoded, Lazy
from d90.tasks.kinds import stored_kind

__all__ = ["Batches", "device_of", "outputs_of"]

INPUTS = frozenset(("input_ids", "attention_mask", "token_type_ids"))  # of a batch whose kind is not known
WINDOW = 64  # batches whose examples are sorted by length together


class Batches:
    """One split, encoded for one model.

    Args:
        model: gives the tokenizer and the longest input.
        split: the examples; images are taken as they are.
        kind: encodes and collates the examples, and says what is kept of the model's outputs; by default that of documents for a causal
            model, else a classification.

    `truncated` counts the texts that were longer than the model takes.
    """

    def __init__(self, model: Model, split: Split, kind: TaskKind | None = None) -> None:
        if kind is None:
            word = "classification" if model.vocabulary is None else "language"
            kind = stored_kind(word, isinstance(split.inputs, Tensor), ())
        self.kind, self.labels, self.truncated = kind, split.labels, 0
        self._images: Tensor | Lazy | None = None
        encoded = kind.encode(ModelEncoder(model), split)
        if not isinstance(encoded, Encoded):
            self._images = encoded
            self.lengths = torch.zeros(len(split), dtype=torch.int64)
            return
        self.truncated = encoded.truncated
        self._tokenizer = model.tokenizer
        self._features = {name: _flat(rows) for name, rows in encoded.features.items()}
        sized = [encoded.features[name] for name in kind.sized]
        self.lengths = torch.tensor([max(map(len, rows)) for rows in zip(*sized, strict=True)])
        model.choose_attention(int(self.lengths.max()))
        self._masked = (
            not model.inputs or "attention_mask" in model.inputs
        )  # some, as FNet, see padding as they see words

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, chosen: Tensor, visit: int = 0) -> dict[str, Tensor] | Tensor:
        """The model's inputs for the examples with these numbers: images, or ids, mask and types padded to the longest.

        For a language model also `scored`, which tokens count; `outputs_of` keeps it from the model.

        Args:
            visit: at which step of training; 0 to look. Hidden tokens are others at each.
        """
        if self._images is not None:
            return self._images[chosen]
        examples = [
            {name: values[places[i] : places[i + 1]] for name, (values, places) in self._features.items()}
            for i in chosen.tolist()
        ]
        if self.kind.fills:
            examples = [{**example, "visit": torch.tensor([visit])} for example in examples]
        batch = self.kind.collate(examples, self._tokenizer)
        if not self._masked:
            batch.pop("attention_mask", None)
        return batch

    def tokens(self) -> Tensor:
        """The token ids of all examples in one row."""
        return self._features["input_ids"][0]

    def shuffled(self, size: int, seed: int, epoch: int) -> list[Tensor]:
        """One epoch's batches as example numbers: shuffled by our own bits, sorted by length inside windows, batches shuffled."""
        order = permutation(seed, "shuffle", 2 * epoch, len(self))
        windows = order.split(size * WINDOW)
        batches = [b for w in windows for b in w[torch.argsort(self.lengths[w], stable=True)].split(size)]
        return [batches[i] for i in permutation(seed, "shuffle", 2 * epoch + 1, len(batches)).tolist()]

    def by_length(self, size: int) -> Iterator[Tensor]:
        """All examples, longest first, for evaluation."""
        yield from torch.argsort(self.lengths, descending=True, stable=True).split(size)


def _flat(rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """All rows in one tensor, and where each begins; the end last."""
    return torch.tensor([i for row in rows for i in row]), [0, *itertools.accumulate(map(len, rows))]


def device_of(module: nn.Module) -> torch.device:
    """Where a model is."""
    return next(module.parameters()).device


def outputs_of(module: nn.Module, batch: dict[str, Tensor] | Tensor, kind: TaskKind | None = None) -> Tensor:
    """What a kind of task keeps of the model's logits on one batch, (n, outputs); the logits as they are without a kind."""
    device = device_of(module)
    if isinstance(batch, Tensor):
        result: Any = module(batch.to(device))
    else:
        names = INPUTS & batch.keys() if kind is None else batch.keys() - set(kind.beside)
        given = {name: batch[name].to(device) for name in batch if name in names}
        places = kind.predicting(batch) if kind is not None else None
        with _only_at(module, None if places is None else places.to(device)):
            result = module(**given)
    logits = _logits_of(result)
    if kind is None or isinstance(batch, Tensor):
        return logits
    if places is not None and logits.shape[:-1] != places.shape:
        logits = logits.flatten(0, -2)  # (k, V): those at the places
    return kind.outputs_of(logits, batch)


def _logits_of(result: Any) -> Tensor:
    """A model's logits; those of begin and end side by side, (n, tokens, 2); of a model without a head its last states."""
    if isinstance(result, Tensor):
        return result
    found: Tensor | None = getattr(result, "logits", None)
    if found is None and hasattr(result, "start_logits"):
        found = torch.stack((result.start_logits, result.end_logits), dim=-1)
    return result.last_hidden_state if found is None else found


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
