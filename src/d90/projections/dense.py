"""Dense: every entry of P is drawn.

    P_ij = g_ij / sqrt(D),   g_ij standard Gaussian, or a random sign

The reference projection of Li et al. 2018 (section 2) for small networks. The compiled kernel draws signs again at every
use, which is faster than reading them, and keeps Gaussians where they take at most 1 GiB; beyond that it draws them again
(2 ns each). torch keeps either up to there, and beyond it draws them again, chunk by chunk (some 65 ns an entry).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from d90.projections import kernels
from d90.projections.base import Projection, even_blocks
from d90.projections.kernels import DenseKernel
from d90.projections.philox import BLOCK, gaussians, signs, words

__all__ = ["Dense"]

CACHE_BYTES = 1 << 30
ENTRIES_AT_ONCE = 1 << 22  # bounds the scratch of a redraw


class Dense(Projection):
    """Dense random projection: O(D d) time, and for Gaussians O(D d) memory while it fits the cache."""

    name = "dense"
    entry_kinds = ("gaussian", "sign")

    def __init__(self, d: int, sizes: int | Sequence[int], seed: int = 0, entries: str | None = None) -> None:
        super().__init__(d, sizes, seed, entries)
        self._cache: Tensor | None = None
        gaussian = self.entries == "gaussian"
        kept = gaussian and self._fits
        segments = (self.sizes, self.starts, self.dither_blocks)
        self.kernel = DenseKernel(seed, (self.D, d), gaussian, kept, segments)

    @property
    def _fits(self) -> bool:
        return 4 * self.D * self.d <= CACHE_BYTES

    @property
    def kept_bytes(self) -> int:
        keeps = self._fits and (self.entries == "gaussian" or kernels.active() == "torch")
        return 4 * self.D * self.d if keeps else 0

    def rows(self, z: Tensor, segment: int, low: int, high: int) -> Tensor:
        return torch.cat([part @ z for part in self._parts(segment, low, high, z.device)])

    def fold(self, g: Tensor, segment: int, low: int, z_gradient: Tensor) -> None:
        done = 0
        for part in self._parts(segment, low, low + len(g), g.device):
            for rows in part.split(BLOCK):  # fp32 sums no longer than this: over all D rows they lose 8e-6, not 6e-7
                z_gradient += (g[done : done + len(rows)] @ rows).double()
                done += len(rows)

    def draws(self) -> Iterator[Tensor]:
        yield words(self.seed, "dense", even_blocks(self.D), 1)

    def _draw(self, first: int, last: int, device: torch.device) -> Tensor:
        rows = torch.arange(first, last, device=device)
        draw = gaussians if self.entries == "gaussian" else signs
        return draw(self.seed, "dense", rows, self.d).mul_(1 / math.sqrt(self.D))

    def _parts(self, segment: int, low: int, high: int, device: torch.device) -> Iterator[Tensor]:
        """The matrix's rows low ... high of a segment, in parts small enough to draw."""
        first, last = self.starts[segment] + low, self.starts[segment] + high
        step = max(1, ENTRIES_AT_ONCE // self.d)
        if self._fits:
            if self._cache is None or self._cache.device != device:
                self._cache = torch.empty(self.D, self.d, device=device)
                for start in range(0, self.D, step):
                    stop = min(start + step, self.D)
                    self._cache[start:stop] = self._draw(start, stop, device)
            yield self._cache[first:last]
            return
        for start in range(first, last, step):
            yield self._draw(start, min(start + step, last), device)
