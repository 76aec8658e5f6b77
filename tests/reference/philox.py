"""Philox4x32-10 in plain Python integers, and what d90 draws from it. Nothing here imports d90."""

from __future__ import annotations

import math
from functools import lru_cache

MASK = (1 << 32) - 1
STREAM = {
    "fastfood.inner": 1,
    "fastfood.outer": 2,
    "fastfood.B": 3,
    "fastfood.Pi": 4,
    "dense": 5,
    "sparse": 6,
    "onehot.columns": 7,
    "onehot.signs": 8,
    "init": 9,
    "dither": 10,
    "probe": 13,
    "kronecker.rows": 15,
    "kronecker.columns": 16,
    "posterior": 17,
}


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds, as in Salmon et al. 2011, figure 2."""
    (a, b, c, d), (key_0, key_1) = counter, key
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * a, 1 << 32)
        high_1, low_1 = divmod(0xCD9E8D57 * c, 1 << 32)
        a, b, c, d = high_1 ^ b ^ key_0, low_1, high_0 ^ d ^ key_1, low_0
        key_0, key_1 = (key_0 + 0x9E3779B9) & MASK, (key_1 + 0xBB67AE85) & MASK
    return a, b, c, d


@lru_cache(maxsize=1 << 14)
def words(seed: int, stream: str, block: int, count: int) -> tuple[int, ...]:
    """The first `count` words of one block."""
    key = (seed & MASK, seed >> 32)
    drawn: list[int] = []
    for group in range(-(-count // 4)):
        drawn += philox((group, block & MASK, block >> 32, STREAM[stream]), key)
    return tuple(drawn[:count])


def signs(seed: int, stream: str, block: int, count: int) -> list[int]:
    """Bit 0 of word 0 first; a set bit is -1."""
    drawn = words(seed, stream, block, -(-count // 32))
    return [1 - 2 * (drawn[j // 32] >> (j % 32) & 1) for j in range(count)]


def gaussians(seed: int, stream: str, block: int, count: int) -> list[float]:
    """Box-Muller on 24-bit uniforms."""
    drawn = words(seed, stream, block, 4 * -(-count // 4))
    out: list[float] = []
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(((first >> 8) + 0.5) / 2**24))
        angle = 2 * math.pi * (second >> 8) / 2**24
        out += [radius * math.cos(angle), radius * math.sin(angle)]
    return out[:count]
