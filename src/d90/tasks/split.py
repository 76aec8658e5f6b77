"""Examples and their labels: a split, and the part that is held out of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d90.projections.philox import permutation

__all__ = ["MAX_HELD", "Split"]

MAX_HELD = 2000  # examples in a split that is made


@dataclass(frozen=True)
class Split:
    """One split: inputs are texts (one or two strings an example; a string alone is one) or images (n, channels, height, width) in fp32.

    `labels` is (n,): int64 class numbers, or fp32 values for regression; zeros for documents, whose tokens are their own labels.
    """

    inputs: Sequence[tuple[str, ...]] | Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tensor) and len(self.inputs) and isinstance(self.inputs[0], str):
            object.__setattr__(self, "inputs", [(text,) if isinstance(text, str) else text for text in self.inputs])

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int | None) -> Split:
        """The first `count` examples (all of them for None): prefixes nest, so a larger limit only adds examples."""
        if count is None or count >= len(self):
            return self
        return Split(self.inputs[:count], self.labels[:count])

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
        return self._pick(~held), self._pick(held)

    def _pick(self, mask: Tensor) -> Split:
        if isinstance(self.inputs, Tensor):
            return Split(self.inputs[mask], self.labels[mask])
        chosen = [texts for texts, kept in zip(self.inputs, mask.tolist(), strict=True) if kept]
        return Split(chosen, self.labels[mask])
