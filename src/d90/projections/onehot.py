"""One-hot: each row of P has a single entry, each column an equal share of the rows.

    P_{r, c(r)} = +- 1 / sqrt(n_{c(r)}),   c(r) = pi[(a_k i + b_k) mod d],   k = floor(r / d),  i = r mod d

n_j is the number of rows of column j, balanced to within one, so P^T P = I exactly. pi is a random permutation, and a_k
(coprime to d) and b_k turn it anew for every d rows. With `entries="one"` all signs are + : the projection of Uni-LoRA
(Li et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from d90.errors import InputError
from d90.projections.base import Projection, even_blocks
from d90.projections.kernels import OneHotKernel
from d90.projections.philox import BLOCK, permutation, signs, words

__all__ = ["OneHot"]


class OneHot(Projection):
    """One-hot random projection: O(D) time, O(d) memory. `signs=False` is short for `entries="one"`."""

    name = "onehot"
    entry_kinds = ("sign", "one")

    def __init__(
        self,
        d: int,
        sizes: int | Sequence[int],
        seed: int = 0,
        entries: str | None = None,
        signs: bool = True,
    ) -> None:
        if not signs and entries == "sign":
            raise InputError("onehot projection: got signs=False and entries='sign', which contradict each other")
        super().__init__(d, sizes, seed, entries if signs else "one")
        self._pi = permutation(seed, "onehot.columns", 0, d)
        self._coprime = torch.tensor([a for a in range(1, d + 1) if math.gcd(a, d) == 1], dtype=torch.int64)
        counts = torch.full((d,), self.D // d, dtype=torch.int64)
        first_of_tail = self.D - self.D % d
        counts[self._columns(torch.arange(first_of_tail, self.D))] += 1
        self._weight = counts.double().rsqrt().float()
        tables = (self._coprime, self._pi, self._weight)
        segments = (self.sizes, self.starts, self.dither_blocks)
        self.kernel = OneHotKernel(seed, tables, self.entries == "sign", segments)

    def rows(self, z: Tensor, segment: int, low: int, high: int) -> Tensor:
        out = (z * self._weight.to(z.device))[self._segment_columns(segment, low, high, z.device)]
        return out if self.entries == "one" else out.mul_(self._signs(segment, low, high, z.device))

    def fold(self, g: Tensor, segment: int, low: int, z_gradient: Tensor) -> None:
        high = low + len(g)
        signed = g if self.entries == "one" else g * self._signs(segment, low, high, g.device)
        columns = self._segment_columns(segment, low, high, g.device)
        weighted = signed * self._weight.to(g.device)[columns]
        z_gradient.index_add_(0, columns, weighted.double())

    def draws(self) -> Iterator[Tensor]:
        yield self._pi
        yield words(self.seed, "onehot.columns", 1 + even_blocks(-(-self.D // self.d)), 1)
        yield words(self.seed, "onehot.signs", even_blocks(-(-self.D // BLOCK)), 8)

    def _segment_columns(self, segment: int, low: int, high: int, device: torch.device) -> Tensor:
        start = self.starts[segment]
        return self._columns(torch.arange(start + low, start + high, device=device))

    def _columns(self, rows: Tensor) -> Tensor:
        """c(r) for consecutive global rows."""
        if len(rows) == 0:
            return rows
        device = rows.device
        self._pi, self._coprime = self._pi.to(device), self._coprime.to(device)
        k, i = rows // self.d, rows % self.d
        first = int(k[0])
        turns = words(self.seed, "onehot.columns", 1 + torch.arange(first, int(k[-1]) + 1, device=device), 1)
        a = self._coprime[turns[:, 0] * len(self._coprime) >> 32]
        b = turns[:, 1] * self.d >> 32
        local = k - first
        return self._pi[(a[local] * i + b[local]) % self.d]

    def _signs(self, segment: int, low: int, high: int, device: torch.device) -> Tensor:
        """One sign for each global row."""
        first, last = self.starts[segment] + low, self.starts[segment] + high
        blocks = torch.arange(first // BLOCK, -(-last // BLOCK), device=device)
        drawn = signs(self.seed, "onehot.signs", blocks, BLOCK).reshape(-1)
        offset = first - first // BLOCK * BLOCK
        return drawn[offset : offset + last - first]
