"""A projection from outside the package, as docs/extending shows one: it goes through every test that the built-in ones do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from d90.projections import Projection, register_projection
from d90.projections.philox import BLOCK, signs, words


@register_projection
class Cyclic(Projection):
    """P_{r, r mod d} = +- 1 / sqrt(n): column after column in turn, n the rows of that column."""

    name = "cyclic"

    def __init__(self, d: int, sizes: int | Sequence[int], seed: int = 0, entries: str | None = None) -> None:
        super().__init__(d, sizes, seed, entries)
        self.weight = torch.bincount(torch.arange(self.D) % d, minlength=d).double().rsqrt().float()

    def rows(self, z: Tensor, segment: int, low: int, high: int) -> Tensor:
        columns, drawn = self._draw(segment, low, high, z.device)
        return (z * self.weight.to(z.device))[columns] * drawn

    def fold(self, g: Tensor, segment: int, low: int, z_gradient: Tensor) -> None:
        columns, drawn = self._draw(segment, low, low + len(g), g.device)
        z_gradient.index_add_(0, columns, (g * drawn * self.weight.to(g.device)[columns]).double())

    def draws(self) -> Iterator[Tensor]:
        yield words(self.seed, "probe", torch.arange(-(-self.D // BLOCK))[:16], 8)

    def _draw(self, segment: int, low: int, high: int, device: torch.device) -> tuple[Tensor, Tensor]:
        rows = self.starts[segment] + torch.arange(low, high, device=device)
        if len(rows) == 0:
            return rows, rows.float()
        first, last = int(rows[0]) // BLOCK, int(rows[-1]) // BLOCK
        drawn = torch.cat([_signs(self.seed, block) for block in range(first, last + 1)]).to(device)
        return rows % self.d, drawn[rows - first * BLOCK]


@lru_cache(maxsize=256)
def _signs(seed: int, block: int) -> Tensor:
    return signs(seed, "probe", torch.tensor([block]), BLOCK)[0]
