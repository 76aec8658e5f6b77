"""Fastfood, stacked in blocks of at most 1024 rows: projection version 1.

    z         = Pi H B theta_padded / sqrt(d_pad)                     once a step
    (P theta)_b = s S_b H_m D_b z[chunk b mod (d_pad / m)]            block b of m = min(d_pad, 1024) rows
    s         = sqrt(d_pad / (m D))                                   unit columns in expectation

B, S_b are random signs, Pi a random permutation, H the Walsh-Hadamard matrix (Sylvester order, entries +-1), D_b signs
(then P^T P = c I up to truncated tails) or standard Gaussians (Fastfood as published). A segment starts a new block and
its last block is truncated. The outer sign S_b is ours: without it a smooth gradient puts all its energy on one
coordinate.

Le, Sarlos, Smola, "Fastfood - approximating kernel expansions in loglinear time" (ICML 2013); Aghajanyan et al. 2021,
section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from d90.projections.base import Projection, even_blocks
from d90.projections.kernels import FastfoodKernel
from d90.projections.philox import BLOCK, flip_signs, gaussians, permutation, signs, words

__all__ = ["Fastfood", "fwht"]


@lru_cache(maxsize=16)
def _hadamard(size: int, device: torch.device) -> Tensor:
    """The (size, size) Walsh-Hadamard matrix in Sylvester order."""
    h = torch.ones(1, 1, device=device)
    while h.shape[0] < size:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return h


def _block_fwht(x: Tensor) -> Tensor:
    """H x along the last dimension of (n, m), m <= 1024, as two matrix products: H_m = H_a (x) H_b."""
    n, m = x.shape
    b = 1 << (m.bit_length() // 2)
    a = m // b
    return (_hadamard(a, x.device) @ (x.reshape(n, a, b) @ _hadamard(b, x.device))).reshape(n, m)


def fwht(x: Tensor) -> Tensor:
    """H x of one vector whose length is a power of two, by butterflies in fp64 (the same sums in the same order everywhere)."""
    y = x.double()
    half = 1
    while half < len(y):
        pair = y.reshape(-1, 2, half)
        y = torch.stack((pair[:, 0] + pair[:, 1], pair[:, 0] - pair[:, 1]), dim=1).reshape(-1)
        half *= 2
    return y


class Fastfood(Projection):
    """Structured random projection in O(D log m) time and O(d) memory; see the module's equation."""

    name = "fastfood"
    entry_kinds = ("sign", "gaussian")

    def __init__(self, d: int, sizes: int | Sequence[int], seed: int = 0, entries: str | None = None) -> None:
        super().__init__(d, sizes, seed, entries)
        self.d_pad = 1 << (d - 1).bit_length()
        self.m = min(self.d_pad, BLOCK)
        self.s = math.sqrt(self.d_pad / (self.m * self.D))
        blocks = [-(-size // self.m) for size in self.sizes]
        self.first_block = tuple(accumulate(blocks, initial=0))[:-1]
        self.block_count = sum(blocks)
        zero = torch.zeros(1, dtype=torch.int64)
        self._B = signs(seed, "fastfood.B", zero, self.d_pad, torch.float64)[0]
        self._Pi = permutation(seed, "fastfood.Pi", 0, self.d_pad)
        chunks, gaussian = self.d_pad // self.m, self.entries == "gaussian"
        segments = (self.sizes, self.first_block, self.dither_blocks)
        self.kernel = FastfoodKernel(seed, self.m, chunks, gaussian, self.s, segments)

    @property
    def z_size(self) -> int:
        return self.d_pad

    def prepare(self, theta: Tensor) -> Tensor:
        self._move(theta.device)
        padded = torch.nn.functional.pad(theta.double(), (0, self.d_pad - self.d))
        return (fwht(padded * self._B)[self._Pi] / math.sqrt(self.d_pad)).float()

    def finish(self, z_gradient: Tensor) -> Tensor:
        self._move(z_gradient.device)
        y = torch.empty_like(z_gradient)
        y[self._Pi] = z_gradient
        return (fwht(y) * self._B / math.sqrt(self.d_pad))[: self.d].float()

    def rows(self, z: Tensor, segment: int, low: int, high: int) -> Tensor:
        blocks = self._blocks(segment, low, high, z.device)
        x = self._inner(z.reshape(-1, self.m)[blocks % (self.d_pad // self.m)], blocks)
        x = flip_signs(_block_fwht(x), self.seed, "fastfood.outer", blocks)
        return x.reshape(-1)[: high - low].mul_(self.s)

    def fold(self, g: Tensor, segment: int, low: int, z_gradient: Tensor) -> None:
        blocks = self._blocks(segment, low, low + len(g), g.device)
        x = torch.zeros(len(blocks), self.m, device=g.device)
        x.view(-1)[: len(g)] = g
        x = self._inner(_block_fwht(flip_signs(x, self.seed, "fastfood.outer", blocks)), blocks)
        chunk = blocks % (self.d_pad // self.m)
        z_gradient.view(-1, self.m).index_add_(0, chunk, x.double().mul_(self.s))

    def draws(self) -> Iterator[Tensor]:
        blocks = even_blocks(self.block_count)
        yield self._Pi
        yield words(self.seed, "fastfood.B", torch.zeros(1, dtype=torch.int64), -(-self.d_pad // 128))
        yield words(self.seed, "fastfood.inner", blocks, 8 if self.entries == "sign" else 256)
        yield words(self.seed, "fastfood.outer", blocks, 8)

    def _blocks(self, segment: int, low: int, high: int, device: torch.device) -> Tensor:
        first = self.first_block[segment]
        return torch.arange(first + low // self.m, first - (-high // self.m), device=device)

    def _inner(self, x: Tensor, blocks: Tensor) -> Tensor:
        """D_b x, in place."""
        if self.entries == "sign":
            return flip_signs(x, self.seed, "fastfood.inner", blocks)
        return x.mul_(gaussians(self.seed, "fastfood.inner", blocks, self.m))

    def _move(self, device: torch.device) -> None:
        if self._B.device != device:
            self._B, self._Pi = self._B.to(device), self._Pi.to(device)
