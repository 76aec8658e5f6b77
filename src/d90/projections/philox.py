"""Philox4x32-10: the counter-based bits that define every random thing in d90.

    (x0, x1, x2, x3) -> (hi(M1 x2) ^ x1 ^ k0, lo(M1 x2), hi(M0 x0) ^ x3 ^ k1, lo(M0 x0)),  ten rounds,
    (k0, k1) += (0x9E3779B9, 0xBB67AE85) between rounds

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A draw is a pure function of
(seed, stream, block, word), so no state of size D exists and any part can be redrawn alone, in any order, on any
device. torch's own generator never defines anything here: it is not prefix-stable and differs by dtype and device.

Layout: key = (seed low, seed high); counter = (group, block low, block high, stream); a group is four 32-bit words.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

__all__ = [
    "BLOCK",
    "STREAMS",
    "flip_signs",
    "gaussians",
    "name_block",
    "permutation",
    "philox4x32",
    "signs",
    "uniforms",
    "words",
]

BLOCK = 1024  # rows in a block, the unit most streams count in; part of the definition of P

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85

# The stream's number is part of the definition of P: never renumber, only append.
STREAMS = {
    "fastfood.inner": 1,  # D_b: signs or Gaussians
    "fastfood.outer": 2,  # S_b
    "fastfood.B": 3,
    "fastfood.Pi": 4,
    "dense": 5,
    "sparse": 6,
    "onehot.columns": 7,
    "onehot.signs": 8,
    "init": 9,  # weights that come from no checkpoint
    "dither": 10,  # rounding of half-precision weights
    "shuffle": 11,  # order of the training examples
    "split": 12,  # train / validation splits made by d90
    "probe": 13,  # random test vectors (checksums)
    "mask": 14,  # tokens that a masked language model is asked for
    "kronecker.rows": 15,
    "kronecker.columns": 16,
    "posterior": 17,  # draws of a certified Gaussian
}


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32 on int64 tensors that hold 32-bit values; returns four tensors of 32-bit values.

    int64 products wrap modulo 2^64, which leaves all 64 bits right; masking undoes the sign of the shift.
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = x0 * _M0, x2 * _M1
        x0, x1, x2, x3 = (
            ((p1 >> 32) & _MASK) ^ x1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ x3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return x0, x1, x2, x3


def words(seed: int, stream: str, blocks: Tensor, groups: int, first_group: int = 0) -> Tensor:
    """Draw `4 * groups` words for each block.

    Args:
        seed: 64-bit seed, 0 <= seed < 2^64.
        stream: a name in `STREAMS`.
        blocks: (n,) int64 block numbers; the result lies on their device.
        groups: how many groups of four words to draw for each block.
        first_group: number of the first group.

    Returns:
        (n, 4 * groups) int64 tensor with values in [0, 2^32).
    """
    key = (seed & _MASK, (seed >> 32) & _MASK)
    blocks = blocks.to(torch.int64).unsqueeze(1)
    group = torch.arange(first_group, first_group + groups, device=blocks.device).unsqueeze(0)
    shape = (blocks.shape[0], groups)
    low, high = (blocks & _MASK).expand(shape), ((blocks >> 32) & _MASK).expand(shape)
    out = philox4x32((group.expand(shape), low, high, torch.full_like(low, STREAMS[stream])), key)
    return torch.stack(out, dim=2).reshape(blocks.shape[0], 4 * groups)


def permutation(seed: int, stream: str, block: int, count: int) -> Tensor:
    """A random order of 0 ... count - 1: (count,) int64, those of `count` words sorted, ties by position."""
    return torch.argsort(words(seed, stream, torch.tensor([block]), -(-count // 4))[0, :count], stable=True)


def signs(seed: int, stream: str, blocks: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw (n, count) signs: element j of a block is 1 - 2 * (bit j % 32 of word j // 32)."""
    groups = -(-count // 128)
    bits = words(seed, stream, blocks, groups).to(torch.int32)  # values wrap; the bits are what counts
    shift = torch.arange(32, device=bits.device, dtype=torch.int32)
    spread = (bits.unsqueeze(2) >> shift).bitwise_and_(1).reshape(bits.shape[0], 128 * groups)
    return spread[:, :count].to(dtype).mul_(-2).add_(1)


def flip_signs(x: Tensor, seed: int, stream: str, blocks: Tensor) -> Tensor:
    """Multiply fp32 `x` (n, count), contiguous, by `signs` in place: the drawn bits are xor-ed into the sign bits."""
    count = x.shape[1]
    bits = words(seed, stream, blocks, -(-count // 128)).to(torch.int32)
    shift = torch.arange(31, -1, -1, device=x.device, dtype=torch.int32)
    top = torch.tensor(-(1 << 31), device=x.device, dtype=torch.int32)
    flips = (bits.unsqueeze(2) << shift).bitwise_and_(top).reshape(x.shape[0], -1)[:, :count]
    x.view(torch.int32).bitwise_xor_(flips)
    return x


def gaussians(seed: int, stream: str, blocks: Tensor, count: int) -> Tensor:
    """Draw (n, count) standard Gaussians in fp32 by Box-Muller, two from each pair of words.

    u0 = ((w0 >> 8) + 1/2) 2^-24, u1 = (w1 >> 8) 2^-24;  sqrt(-2 ln u0) (cos 2 pi u1, sin 2 pi u1).
    """
    groups = -(-count // 4)
    pairs = words(seed, stream, blocks, groups).reshape(blocks.shape[0], 2 * groups, 2) >> 8
    scale = 2.0**-24
    radius = torch.sqrt(-2.0 * torch.log((pairs[..., 0].to(torch.float64) + 0.5) * scale))
    angle = pairs[..., 1].to(torch.float64) * (2.0 * torch.pi * scale)
    both = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=2)
    return both.reshape(blocks.shape[0], 4 * groups)[:, :count].to(torch.float32)


def uniforms(seed: int, stream: str, blocks: Tensor, count: int) -> Tensor:
    """Draw (n, count) numbers uniform on (0, 1) in fp32, one from each word: ((w >> 9) + 1/2) 2^-23."""
    drawn = words(seed, stream, blocks, -(-count // 4))[:, :count] >> 9
    return (drawn.to(torch.float32) + 0.5) * 2.0**-23


def name_block(name: str) -> int:
    """A stable 32-bit block number for a name (CRC-32 of its UTF-8 bytes)."""
    return zlib.crc32(name.encode())
