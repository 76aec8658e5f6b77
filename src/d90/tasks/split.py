"""Examples and their labels: a split, and the part that is held out of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from d90.projections.philox import permutation

__all__ = ["MAX_HELD", "Sources", "Split", "numbered"]

MAX_HELD = 2000  # examples in a split that is made


@dataclass(frozen=True)
class Sources:
    """What each example was drawn with: those of one name are one independent example together.

    Attributes:
        names: one for each example.
        what: what the names are, in the plural, as a note says it ("passages").
    """

    names: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class Split:
    """One split: inputs are texts (one or two strings an example; a string alone is one) or images (n, channels, height, width) in fp32.

    `labels` is (n,): int64 class numbers, or fp32 values for regression; zeros for documents, whose tokens are their own labels.
    `sources` says what the examples were drawn with where neither their texts nor their kind tell it.
    """

    inputs: Sequence[tuple[str, ...]] | Tensor
    labels: Tensor
    sources: Sources | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tensor) and len(self.inputs) and isinstance(self.inputs[0], str):
            object.__setattr__(self, "inputs", [(text,) if isinstance(text, str) else text for text in self.inputs])

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int | None) -> Split:
        """The first `count` examples (all of them for None): prefixes nest, so a larger limit only adds examples."""
        if count is None or count >= len(self):
            return self
        sources = self.sources and replace(self.sources, names=self.sources.names[:count])
        return Split(self.inputs[:count], self.labels[:count], sources)

    def hold_out(self, block: int, groups: Tensor | None = None) -> tuple[Split, Split]:
        """(rest, held): a tenth, at most `MAX_HELD` examples, drawn by the bits of the stream "split"; order is kept.

        Args:
            block: which of the stream's bits: 0 draws a validation split, 1 a test split.
            groups: which group each example belongs to (n,), from 0 on: a tenth of the groups is drawn, each stays whole.
        """
        groups = torch.arange(len(self)) if groups is None else groups
        sizes = torch.bincount(groups)
        drawn = permutation(0, "split", block, len(sizes))[: max(1, len(sizes) // 10)]
        drawn = drawn[: max(1, int((sizes[drawn].cumsum(0) <= MAX_HELD).sum()))]
        held = torch.isin(groups, drawn)
        return self.pick((~held).nonzero().flatten()), self.pick(held.nonzero().flatten())

    def pick(self, numbers: Tensor) -> Split:
        """The examples with these numbers (k,), int64, in their order."""
        chosen = numbers.tolist()
        inputs = self.inputs[numbers] if isinstance(self.inputs, Tensor) else [self.inputs[i] for i in chosen]
        sources = self.sources and replace(self.sources, names=tuple(self.sources.names[i] for i in chosen))
        return Split(inputs, self.labels[numbers], sources)


def numbered(names: Sequence[str]) -> Tensor | None:
    """Which of the different names each one is (n,), numbered as they first come; None where all differ."""
    place: dict[str, int] = {}
    numbers = [place.setdefault(name, len(place)) for name in names]
    return torch.tensor(numbers) if len(place) < len(numbers) else None
