"""Dithered rounding: how fp32 values become bf16 or fp16 weights without losing small updates.

    rounded = q floor(x / q + u),   q the spacing of the half-precision numbers around x,   u in (0, 1) fixed for each
    weight

Plain rounding keeps 6 % of an update of relative size 1e-4 in bf16; this keeps all of it in the mean. u comes from the
Philox stream "dither" by index, the same at every step, so a reload is exact; a value that the type can hold is left as
it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from d90.projections.philox import BLOCK, words

__all__ = ["HALF_TYPES", "round_dithered"]

# significand bits, and the exponent of the smallest spacing
HALF_TYPES = {torch.bfloat16: (8, -133), torch.float16: (11, -24)}


def round_dithered(x: Tensor, dtype: torch.dtype, seed: int, first_block: int) -> Tensor:
    """Round flat fp32 `x` to `dtype`; its element 0 is element 0 of dither block `first_block` (blocks of 1024)."""
    bits, smallest = HALF_TYPES[dtype]
    count = -(-len(x) // BLOCK)
    blocks = torch.arange(first_block, first_block + count, device=x.device)
    drawn = words(seed, "dither", blocks, BLOCK // 8)  # two 16-bit halves a word, low half first
    halves = torch.stack((drawn & 0xFFFF, drawn >> 16), dim=2).reshape(-1)[: len(x)]
    u = (halves.float() + 0.5) * 2.0**-16
    exponent = torch.frexp(x).exponent.sub_(bits).clamp_(min=smallest)
    q = torch.ldexp(torch.ones_like(x, dtype=torch.float64), exponent)
    rounded = torch.floor(x.double() / q + u) * q
    return torch.where(torch.isfinite(x), rounded, x.double()).to(dtype)
