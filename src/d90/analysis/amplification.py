"""Delta W against W: which directions does a fine-tune raise? (Hu et al. 2021, section 7.3, table 7)

    ||U^T W V||_F        the part of W in r directions: U, V the top r singular vectors of Delta W, of W, or random ones
    amplification        ||Delta W||_F / ||U^T W V||_F   with U, V of Delta W

For random orthonormal U and V the part's expected square is ||W||^2 r^2 / (n k), so the column's size is ||W|| r / sqrt(n k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d90.errors import InputError

__all__ = ["Amplification", "Spectrum", "amplification", "amplifications", "spectrum"]


@dataclass(frozen=True)
class Amplification:
    """Table 7's row for one matrix and rank; all Frobenius norms."""

    r: int
    weight: float  # ||W||
    delta: float  # ||Delta W||
    own: float  # of W, in Delta W's directions
    top: float  # of W, in W's own top directions
    random: float  # of W, expected in random directions

    @property
    def factor(self) -> float:
        """||Delta W|| / ||U^T W V||: how much the directions are raised that the pretrained matrix has little of."""
        return self.delta / self.own if self.own > 0 else math.inf


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a change, and how many directions it needs.

    Attributes:
        values: the largest first.
        stable_rank: ||Delta||_F^2 / ||Delta||_2^2.
        effective_rank: exp of the entropy of values / sum (Roy and Vetterli 2007).
        energy_rank: the least number of directions with 90 % of the squared norm.
    """

    values: tuple[float, ...]
    stable_rank: float
    effective_rank: float
    energy_rank: int


def amplification(weight: Tensor, delta: Tensor, r: int) -> Amplification:
    """Compare a change of rank r or more with the matrix it changes, both (n, k).

    Raises:
        InputError: shapes that differ, or r outside 1 ... min(n, k).
    """
    return amplifications(weight, delta, [r])[0]


def amplifications(weight: Tensor, delta: Tensor, ranks: Sequence[int]) -> tuple[Amplification, ...]:
    """`amplification` at several ranks, from one decomposition."""
    if weight.shape != delta.shape or weight.dim() != 2:
        raise InputError(f"got W {tuple(weight.shape)} and Delta W {tuple(delta.shape)}, expected two equal matrices")
    wrong = next((r for r in ranks if not 1 <= r <= min(weight.shape)), None)
    if wrong is not None:
        raise InputError(f"got r={wrong}, expected 1 ... {min(weight.shape)}, the matrix's rank at most")
    weight, delta = weight.double(), delta.double()
    u, _, v = torch.linalg.svd(delta, full_matrices=False)
    inside = u.T @ weight @ v.T
    values = torch.linalg.svdvals(weight)
    return tuple(
        Amplification(
            r=r,
            weight=float(weight.norm()),
            delta=float(delta.norm()),
            own=float(inside[:r, :r].norm()),
            top=float(values[:r].norm()),
            random=float(weight.norm()) * r / math.sqrt(weight.numel()),
        )
        for r in ranks
    )


def spectrum(delta: Tensor) -> Spectrum:
    """The singular values of a change, and three measures of its rank; zeros for a change that is zero."""
    values = torch.linalg.svdvals(delta.double())
    total = float(values.square().sum())
    if total == 0:
        return Spectrum(tuple(values.tolist()), 0.0, 0.0, 0)
    shares = values / values.sum()
    entropy = -float((shares * shares.clamp_min(1e-300).log()).sum())
    energy = values.square().cumsum(0) / total
    return Spectrum(
        values=tuple(values.tolist()),
        stable_rank=total / float(values[0]) ** 2,
        effective_rank=math.exp(entropy),
        energy_rank=int((energy < 0.9 - 1e-12).sum()) + 1,
    )
