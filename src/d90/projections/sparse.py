"""Sparse: a very sparse random projection of density 1 / sqrt(D).

    P_ij = +- D^(-1/4) with probability 1 / sqrt(D), else 0

so a column has sqrt(D) entries and unit norm in expectation (Li, Hastie, Church 2006; Li et al. 2018, section 2).
Entries are drawn a block of n rows
at a time: their number is n d / sqrt(D) rounded at random, their places uniform in the block (two on one place add up).
They are cached where they take at most 1 GiB and drawn again where they take more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from d90.projections.base import Projection, even_blocks
from d90.projections.philox import BLOCK, words

__all__ = ["Sparse"]

CACHE_BYTES = 1 << 30
ENTRIES_AT_ONCE = 1 << 19


class _Entries(NamedTuple):
    row: Tensor  # within the segment, int64
    column: Tensor
    value: Tensor


class Sparse(Projection):
    """Very sparse random projection: O(d sqrt(D)) time."""

    name = "sparse"

    def __init__(self, d: int, sizes: int | Sequence[int], seed: int = 0, entries: str | None = None) -> None:
        super().__init__(d, sizes, seed, entries)
        blocks = [-(-size // BLOCK) for size in self.sizes]
        self.first_block = tuple(accumulate(blocks, initial=0))[:-1]
        self.block_count = sum(blocks)
        self.value = self.D**-0.25
        self._entry_bytes = round(20 * d * math.sqrt(self.D))  # row and column 8 each, value 4
        self._cached = self._entry_bytes <= CACHE_BYTES
        self._cache: dict[tuple[int, int, torch.device], _Entries] = {}

    @property
    def kept_bytes(self) -> int:
        return self._entry_bytes if self._cached else 0

    def rows(self, z: Tensor, segment: int, low: int, high: int) -> Tensor:
        out = torch.zeros(high - low, device=z.device)
        for part in self._parts(segment, low, high, z.device):
            out.index_add_(0, part.row, z[part.column].mul_(part.value))
        return out

    def fold(self, g: Tensor, segment: int, low: int, z_gradient: Tensor) -> None:
        for part in self._parts(segment, low, low + len(g), g.device):
            z_gradient.index_add_(0, part.column, g[part.row].mul_(part.value).double())

    def draws(self) -> Iterator[Tensor]:
        yield words(self.seed, "sparse", even_blocks(self.block_count), 4)

    def _parts(self, segment: int, low: int, high: int, device: torch.device) -> Iterator[_Entries]:
        """The entries in rows low ... high of a segment, rows counted from `low`."""
        key = (segment, low, device)
        if key in self._cache:
            yield self._cache[key]
            return
        drawn = self._draw(segment, low, high, device)
        if self._cached:
            parts = list(drawn)
            self._cache[key] = _Entries(*(torch.cat(column) for column in zip(*parts, strict=True)))
            yield self._cache[key]
        else:
            yield from drawn

    def _draw(self, segment: int, low: int, high: int, device: torch.device) -> Iterator[_Entries]:
        full, tail = divmod(high - low, BLOCK)
        first = self.first_block[segment] + low // BLOCK
        step = max(1, int(ENTRIES_AT_ONCE / max(1.0, BLOCK * self.d / math.sqrt(self.D))))
        for start in range(0, full, step):
            count = min(step, full - start)
            yield self._draw_blocks(first + start, count, BLOCK, start * BLOCK, device)
        if tail:
            yield self._draw_blocks(first + full, 1, tail, full * BLOCK, device)

    def _draw_blocks(self, first: int, count: int, n: int, offset: int, device: torch.device) -> _Entries:
        """Entries of `count` blocks of n rows; group 0 of a block rounds their number, group k + 1 draws entry k."""
        wanted = n * self.d / math.sqrt(self.D)
        most = int(wanted) + 1
        drawn = words(self.seed, "sparse", torch.arange(first, first + count, device=device), most + 1)
        drawn = drawn.reshape(count, most + 1, 4)
        extra = (drawn[:, 0, 0].double() + 0.5) * 2.0**-32 < wanted - int(wanted)
        kept = torch.arange(most, device=device) < (int(wanted) + extra.long())[:, None]
        row = (drawn[:, 1:, 0] * n >> 32) + (torch.arange(count, device=device) * n + offset)[:, None]
        column = drawn[:, 1:, 1] * self.d >> 32
        value = torch.where(drawn[:, 1:, 2] & 1 == 1, -self.value, self.value).float()
        return _Entries(row[kept], column[kept], value[kept])
