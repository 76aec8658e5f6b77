"""Kronecker: P theta is a matrix of rank sqrt(d) at most in every layer, made of two sign matrices and one small square.

    Delta W = s B Theta A^T,    Theta = theta as a q x q matrix, row by row,  q = sqrt(d),    s = 1 / sqrt(D)

for a segment of shape (n, ...), W being n x w. B (n, q) and A (w, q) are random signs of the segment's own, a block a row in one stream
each; one Theta serves all segments. A segment of one dimension is n x 1. Every entry of P is +-s, so its columns have unit norm exactly.

What it is for is the path of the activations: x W^T changes by s (x A) Theta^T B^T, q numbers a token between two matrices that
all tunes of one seed share, and a batch of many tunes costs each row its own q x q numbers (`d90.serving`). VeRA (Kopiczko et al. 2024)
shares random matrices so, and LoRA-XS (Balazy et al. 2024) trains the square between two fixed ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from d90.errors import InputError
from d90.projections.base import Projection, even_blocks
from d90.projections.philox import signs, words

__all__ = ["Kronecker"]

CACHE_BYTES = 1 << 30


class Kronecker(Projection):
    """B Theta A^T in every segment: O(D sqrt(d)) time, and O((n + w) sqrt(d)) memory a segment while that fits the cache."""

    name = "kronecker"
    squares = by_shape = low_rank = True

    def __init__(
        self, d: int, sizes: int | Sequence[int | Sequence[int]], seed: int = 0, entries: str | None = None
    ) -> None:
        given = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        shapes = [(one,) if isinstance(one, int) else tuple(one) for one in given]
        super().__init__(d, [math.prod(shape) for shape in shapes], seed, entries)
        self.q = math.isqrt(self.d)
        if self.q**2 != self.d:
            raise InputError(
                f"kronecker projection: got {self.d} coordinates (d without lambdas), expected a square such as {self.q**2} or "
                f"{(self.q + 1) ** 2}: Theta is sqrt(d) x sqrt(d)"
            )
        self.matrices = tuple((shape[0] if shape else 1, math.prod(shape[1:])) for shape in shapes)
        self.first_row = tuple(accumulate((n for n, _ in self.matrices), initial=0))
        self.first_column = tuple(accumulate((w for _, w in self.matrices), initial=0))
        self.s = 1 / math.sqrt(self.D)
        self._cache: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def kept_bytes(self) -> int:
        whole = 4 * self.q * (self.first_row[-1] + self.first_column[-1])
        return whole if whole <= CACHE_BYTES else 0

    def factors(self, segment: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B (n, q), A (w, q)) of a segment, signs in fp32."""
        held = self._cache.get((segment, device))
        if held is None:
            held = (
                self._signs("kronecker.rows", self.first_row, segment, device),
                self._signs("kronecker.columns", self.first_column, segment, device),
            )
            if self.kept_bytes:
                self._cache[segment, device] = held
        return held

    def factored(self, z: Tensor, segment: int) -> tuple[Tensor, Tensor, Tensor]:
        b, a = self.factors(segment, z.device)
        return b, z.view(self.q, self.q) * self.s, a

    def rows(self, z: Tensor, segment: int, low: int, high: int) -> Tensor:
        b, a = self.factors(segment, z.device)
        width = len(a)
        first, last = low // width, -(-high // width)
        part = (b[first:last] @ (z.view(self.q, self.q) * self.s)) @ a.T
        return part.reshape(-1)[low - first * width : high - first * width]

    def fold(self, g: Tensor, segment: int, low: int, z_gradient: Tensor) -> None:
        b, a = self.factors(segment, g.device)
        width = len(a)
        first, last = low // width, -(-(low + len(g)) // width)
        whole = g
        if low % width or len(g) % width:  # a chunk that cuts rows
            whole = g.new_zeros((last - first) * width)
            whole[low - first * width : low - first * width + len(g)] = g
        through = whole.view(-1, width) @ a  # (rows, q)
        square = z_gradient.view(self.q, self.q)
        square.add_(b[first:last].double().T @ through.double(), alpha=self.s)

    def draws(self) -> Iterator[Tensor]:
        groups = -(-self.q // 128)
        yield torch.tensor(self.matrices, dtype=torch.int64)
        yield words(self.seed, "kronecker.rows", even_blocks(self.first_row[-1]), groups)
        yield words(self.seed, "kronecker.columns", even_blocks(self.first_column[-1]), groups)

    def _signs(self, stream: str, firsts: Sequence[int], segment: int, device: torch.device) -> Tensor:
        rows = torch.arange(firsts[segment], firsts[segment + 1], device=device)
        return signs(self.seed, stream, rows, self.q)
