"""What a projection is asked to write, and to fold: one tensor of a model at a time."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Fold", "Target"]


class Target(NamedTuple):
    """One tensor to write: out = base + factor R_segment z, all flat; `out` is fp32 or half precision, and may be `base`."""

    segment: int
    base: Tensor
    factor: float
    z: Tensor
    out: Tensor


class Fold(NamedTuple):
    """One gradient to fold: z_gradients[row] += factor R_segment^T g; `g` is flat."""

    segment: int
    g: Tensor
    factor: float
    row: int
