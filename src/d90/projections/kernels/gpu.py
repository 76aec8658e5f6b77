"""Fastfood on a GPU, in Triton: the C code's map, one launch for all tensors of a write, one for the gradients of a fold.

A program works on tiles of 1024 rows, whole blocks of m of them: draws their signs or Gaussians, transforms in registers, and reads and
writes each weight once. Nothing of size D is held but the numbers of the tiles, 8 bytes for 1024 weights. Sums over tiles are
fp64 atomics, so that their order does not show in fp32. Imported on demand: Triton comes with torch where that has CUDA.
"""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.random import philox_impl

from d90.projections.philox import STREAMS
from d90.projections.rounding import HALF_TYPES
from d90.projections.targets import Fold, Target

if TYPE_CHECKING:
    from d90.projections.kernels import Segments

__all__ = ["FastfoodOnGpu"]

TILE = 1024
RUN = 16  # tiles of a fold's program: enough programs for the largest GPUs, few enough that their sums cost little
INNER, OUTER = tl.constexpr(STREAMS["fastfood.inner"]), tl.constexpr(STREAMS["fastfood.outer"])
DITHER = tl.constexpr(STREAMS["dither"])
UNIT, TURN = tl.constexpr(2.0**-24), tl.constexpr(2.0 * math.pi)


@triton.jit
def _philox(group, block, stream: tl.constexpr, k0, k1):
    """Four words for each (group, block), `philox.words`."""
    block = block.to(tl.int64)
    low, high = (block & 0xFFFFFFFF).to(tl.uint32), (block >> 32).to(tl.uint32)
    fourth = tl.full(group.shape, stream, tl.uint32)
    return philox_impl(group.to(tl.uint32), low, high, fourth, k0.to(tl.uint32), k1.to(tl.uint32), 10)


@triton.jit
def _of_four(w0, w1, w2, w3, which):
    return tl.where(which < 2, tl.where(which == 0, w0, w1), tl.where(which == 2, w2, w3))


@triton.jit
def _flip(x, first, stream: tl.constexpr, k0, k1, N: tl.constexpr, M: tl.constexpr):
    """x (N,) times the signs of its N / M blocks, the first with number `first`: `philox.flip_signs`."""
    groups: tl.constexpr = M // 128 if M > 128 else 1  # of a block
    drawn: tl.constexpr = N // M * groups
    q = tl.arange(0, drawn)
    w0, w1, w2, w3 = _philox(q % groups, first + q // groups, stream, k0, k1)
    if M < 128:
        j = tl.arange(0, M)[None, :]
        word = _of_four(w0[:, None], w1[:, None], w2[:, None], w3[:, None], j // 32)
        bits = word >> (j % 32).to(tl.uint32)
    else:
        word = _of_four(w0[:, None], w1[:, None], w2[:, None], w3[:, None], tl.arange(0, 4)[None, :])
        bits = word[:, :, None] >> tl.arange(0, 32)[None, None, :].to(tl.uint32)
    return tl.where(tl.reshape(bits & 1, (N,)) == 1, -x, x)


@triton.jit
def _gaussians(first, k0, k1, N: tl.constexpr, M: tl.constexpr):
    """The Gaussians (N,) of N / M blocks: `philox.gaussians`, in fp64 as there."""
    groups: tl.constexpr = M // 4 if M > 4 else 1
    q = tl.arange(0, N // M * groups)
    w0, w1, w2, w3 = _philox(q % groups, first + q // groups, INNER, k0, k1)
    second = (tl.arange(0, 4) >= 2)[None, :]
    u = ((tl.where(second, w2[:, None], w0[:, None]) >> 8).to(tl.float64) + 0.5) * UNIT
    angle = (tl.where(second, w3[:, None], w1[:, None]) >> 8).to(tl.float64) * (TURN * UNIT)
    odd = (tl.arange(0, 4) % 2 == 1)[None, :]
    both = tl.sqrt(-2.0 * tl.log(u)) * tl.where(odd, tl.sin(angle), tl.cos(angle))
    if M < 4:  # the first M of each four
        wanted = tl.arange(0, 4)[None, None, :] == tl.arange(0, M)[None, :, None]
        both = tl.sum(tl.where(wanted, both[:, None, :], 0.0), axis=2)
    return tl.reshape(both.to(tl.float32), (N,))


@triton.jit
def _inner(x, first, k0, k1, N: tl.constexpr, M: tl.constexpr, GAUSSIAN: tl.constexpr):
    """D_b x of each block."""
    if GAUSSIAN:
        return x * _gaussians(first, k0, k1, N, M)
    else:
        return _flip(x, first, INNER, k0, k1, N, M)


@triton.jit
def _butterfly(x, N: tl.constexpr, half: tl.constexpr):
    pairs = tl.permute(tl.reshape(x, (N // (2 * half), 2, half)), (0, 2, 1))
    a, b = tl.split(pairs)
    return tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 2, 1)), (N,))


@triton.jit
def _hadamard(x, N: tl.constexpr, LOG_M: tl.constexpr):
    """H x of each block of 2^LOG_M, Sylvester order."""
    for stage in tl.static_range(LOG_M):
        x = _butterfly(x, N, 1 << stage)
    return x


@triton.jit
def _dithered(x, block, k0, k1, SMALLEST: tl.constexpr, BITS: tl.constexpr, N: tl.constexpr):
    """x (N,), one block, on the grid of a half-precision type: `rounding.round_dithered`."""
    q = tl.arange(0, N // 8)
    w0, w1, w2, w3 = _philox(q, block + 0 * q, DITHER, k0, k1)
    word = _of_four(w0[:, None], w1[:, None], w2[:, None], w3[:, None], tl.arange(0, 4)[None, :])
    half = (word[:, :, None] >> (16 * tl.arange(0, 2)[None, None, :]).to(tl.uint32)) & 0xFFFF
    u = (tl.reshape(half, (N,)).to(tl.float64) + 0.5) * 0.0000152587890625  # 2^-16
    exponent = ((x.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 126 - BITS
    exponent = tl.maximum(exponent, SMALLEST)
    step = ((exponent + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    rounded = (tl.floor(x.to(tl.float64) / step + u) * step).to(tl.float32)
    return tl.where(tl.abs(x) < float("inf"), rounded, x)


@triton.jit(do_not_specialize=["k0", "k1", "chunks"])
def write_tiles(
    places, factors, tiles, zs, like_base, like_out, k0, k1, chunks,
    SMALLEST: tl.constexpr, BITS: tl.constexpr, N: tl.constexpr, M: tl.constexpr, LOG_M: tl.constexpr, GAUSSIAN: tl.constexpr,
):  # fmt: skip
    """out = base + factor S H D z of one tile. places (n, 6): base, out, size, first block, first dither block, row of zs."""
    target, tile = tl.load(tiles + 2 * tl.program_id(0)), tl.load(tiles + 2 * tl.program_id(0) + 1)
    place = places + 6 * target
    base = tl.load(place).to(tl.pointer_type(like_base.dtype.element_ty))
    out = tl.load(place + 1).to(tl.pointer_type(like_out.dtype.element_ty))
    size, first = tl.load(place + 2), tl.load(place + 3) + tile * (N // M)
    e = tl.arange(0, N)
    row = tile.to(tl.int64) * N + e
    z = zs + tl.load(place + 5) * chunks * M
    x = tl.load(z + (first + e // M) % chunks * M + e % M)
    x = _inner(x, first, k0, k1, N, M, GAUSSIAN)
    x = _flip(_hadamard(x, N, LOG_M), first, OUTER, k0, k1, N, M)
    value = tl.load(base + row, mask=row < size, other=0.0).to(tl.float32) + tl.load(factors + target) * x
    if BITS != 0:
        value = _dithered(value, tl.load(place + 4) + tile, k0, k1, SMALLEST, BITS, N)
    tl.store(out + row, value.to(like_out.dtype.element_ty), mask=row < size)


@triton.jit(do_not_specialize=["k0", "k1", "chunks"])
def fold_tiles(
    places, factors, programs, z_gradients, like_g, k0, k1, chunks,
    N: tl.constexpr, M: tl.constexpr, LOG_M: tl.constexpr, GAUSSIAN: tl.constexpr,
):  # fmt: skip
    """z_gradients[row] += factor D H S g over tiles that read the same chunk of z. places (n, 4): g, size, first block, row."""
    program = programs + 4 * tl.program_id(0)
    target, tile, step, end = tl.load(program), tl.load(program + 1), tl.load(program + 2), tl.load(program + 3)
    place = places + 4 * target
    g = tl.load(place).to(tl.pointer_type(like_g.dtype.element_ty))
    size, first = tl.load(place + 1), tl.load(place + 2)
    e = tl.arange(0, N)
    at = (first + tile * (N // M) + e // M) % chunks * M + e % M
    total = tl.zeros((N,), tl.float64)
    while tile < end:
        row = tile.to(tl.int64) * N + e
        block = first + tile * (N // M)
        x = tl.load(g + row, mask=row < size, other=0.0).to(tl.float32)
        x = _hadamard(_flip(x, block, OUTER, k0, k1, N, M), N, LOG_M)
        total += _inner(x, block, k0, k1, N, M, GAUSSIAN).to(tl.float64)
        tile += step
    z = z_gradients + tl.load(place + 3) * chunks * M
    tl.atomic_add(z + at, total * tl.load(factors + target), sem="relaxed")


class FastfoodOnGpu:
    """What `FastfoodKernel` does on the CPU; its arguments are the same.

    Tensors must be contiguous, in fp32 or half precision, all of one type each (bases, outs) and on one device.
    """

    def __init__(self, seed: int, m: int, chunks: int, gaussian: bool, s: float, segments: Segments) -> None:
        self.keys = seed & 0xFFFFFFFF, seed >> 32
        self.chunks, self.s = chunks, s
        self.sizes, self.first, self.dither = segments
        self._shape: dict[str, int] = {"N": TILE, "M": m, "LOG_M": m.bit_length() - 1, "GAUSSIAN": gaussian}
        self._known: tuple[Any, Tensor, Tensor] | None = None
        self._divided: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def write(self, targets: Sequence[Target]) -> None:
        """Write all of them in one launch."""
        zs = list({id(target.z): target.z for target in targets}.values())
        places, tiles = self._places(targets, [id(z) for z in zs])
        base, out = targets[0].base, targets[0].out
        factors = torch.tensor([target.factor * self.s for target in targets], dtype=torch.float32, device=out.device)
        bits, smallest = HALF_TYPES.get(out.dtype, (0, 0))
        with _device_of(out):
            write_tiles[(len(tiles),)](
                places, factors, tiles, zs[0] if len(zs) == 1 else torch.stack(zs), base, out, *self.keys, self.chunks,
                SMALLEST=smallest, BITS=bits, **self._shape,
            )  # fmt: skip

    def fold(self, folds: Sequence[Fold], z_gradients: Tensor) -> None:
        """z_gradients[row] += factor R^T g for each, in one launch."""
        device, like = z_gradients.device, folds[0].g
        programs = self._programs(tuple(fold.segment for fold in folds), device)
        if not len(programs):
            return
        places = [(fold.g.data_ptr(), len(fold.g), self.first[fold.segment], fold.row) for fold in folds]
        factors = torch.tensor([fold.factor * self.s for fold in folds], dtype=torch.float64, device=device)
        with _device_of(like):
            fold_tiles[(len(programs),)](
                torch.tensor(places, device=device), factors, programs, z_gradients, like, *self.keys, self.chunks, **self._shape
            )  # fmt: skip

    def _programs(self, segments: tuple[int, ...], device: torch.device) -> Tensor:
        """(n, 4): which gradient, first tile, step, end. A training loop asks for the same few at every step."""
        key = segments, device
        if key not in self._divided:
            found = []
            for target, segment in enumerate(segments):
                tiles = -(-self.sizes[segment] // TILE)
                for residue in range(min(self.chunks, tiles)):
                    for start in range(residue, tiles, RUN * self.chunks):
                        found.append((target, start, self.chunks, min(start + RUN * self.chunks, tiles)))
            self._divided[key] = torch.tensor(found, dtype=torch.int32).reshape(-1, 4).to(device)
        return self._divided[key]

    def _places(self, targets: Sequence[Target], zs: list[int]) -> tuple[Tensor, Tensor]:
        """Where everything lies, on the device; a training loop asks for the same at every step."""
        rows = tuple(
            (t.base.data_ptr(), t.out.data_ptr(), t.out.numel(), self.first[t.segment], self.dither[t.segment], zs.index(id(t.z)))
            for t in targets
        )  # fmt: skip
        device = targets[0].out.device
        if self._known is None or self._known[0] != (rows, device):
            counts = torch.tensor([-(-row[2] // TILE) for row in rows])
            target = torch.repeat_interleave(torch.arange(len(rows)), counts)
            tile = torch.arange(len(target)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
            tiles = torch.stack((target, tile), dim=1).to(torch.int32).contiguous()
            self._known = (rows, device), torch.tensor(rows).to(device), tiles.to(device)
        return self._known[1:]


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Launch where the tensor is; interpreted, that is the processor."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
