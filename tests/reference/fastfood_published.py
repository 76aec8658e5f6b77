"""Fastfood in its two published forms, one slow line for each factor. Nothing here imports d90.

    M = H G Pi H B        B random signs, H Walsh-Hadamard with entries +-1, Pi a permutation, G a Gaussian diagonal

`Stacked`   Le, Sarlos, Smola 2013: blocks of n = nextpow2(d) rows, each with its own B, Pi and G.
`Released`  the code released with Aghajanyan et al. 2021: one block of L = 2^ceil(log2 D) rows, theta padded to L.
Both are divided by what gives unit columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(x: Tensor) -> Tensor:
    """H x along the last dimension, unnormalised, Sylvester order."""
    n, half = x.shape[-1], 1
    y = x
    while half < n:
        pair = y.reshape(*x.shape[:-1], -1, 2, half)
        y = torch.cat((pair[..., :1, :] + pair[..., 1:, :], pair[..., :1, :] - pair[..., 1:, :]), dim=-2)
        y = y.reshape(x.shape)
        half *= 2
    return y


class Block:
    """H G Pi H B on n = 2^k numbers, and its transpose B H Pi^T G H."""

    def __init__(self, n: int, generator: torch.Generator, outer_sign: bool = False) -> None:
        def sign() -> Tensor:
            return torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1

        self.B = sign()
        self.Pi = torch.randperm(n, generator=generator)
        self.G = torch.randn(n, generator=generator, dtype=torch.float64)
        self.S = sign() if outer_sign else torch.ones(n, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.S * hadamard(self.G * hadamard(self.B * x)[..., self.Pi])

    def adjoint(self, y: Tensor) -> Tensor:
        inner = self.G * hadamard(self.S * y)
        back = torch.empty_like(inner)
        back[..., self.Pi] = inner
        return self.B * hadamard(back)


class Stacked:
    """Le et al. 2013."""

    def __init__(self, d: int, D: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.d, self.D, self.n = d, D, 1 << (d - 1).bit_length()
        self.blocks = [Block(self.n, generator) for _ in range(-(-D // self.n))]
        self.divisor = math.sqrt(self.n * D)

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x.double(), (0, self.n - self.d))
        return torch.cat([block.forward(padded) for block in self.blocks], -1)[..., : self.D] / self.divisor


class Released:
    """The released single block; `backward` is what its autograd function returns."""

    def __init__(self, d: int, D: int, seed: int, outer_sign: bool = False) -> None:
        self.d, self.D, self.L = d, D, 1 << (D - 1).bit_length()
        self.block = Block(self.L, torch.Generator().manual_seed(seed), outer_sign)
        self.divisor = math.sqrt(self.L * float((self.block.G**2).sum())) * math.sqrt(self.D / self.L)

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x.double(), (0, self.L - self.d))
        return self.block.forward(padded)[..., : self.D] / self.divisor

    def adjoint(self, y: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(y.double(), (0, self.L - self.D))
        return self.block.adjoint(padded)[..., : self.d] / self.divisor

    def backward(self, y: Tensor) -> Tensor:
        """Each of its two Walsh-Hadamard calls divides by sqrt(L) on the way back, and did not on the way forth."""
        return self.adjoint(y) / math.sqrt(self.L) ** 2
