"""The C kernels: built by `pip install` where a compiler is found, loaded with ctypes, chosen here and nowhere else.

Without the library, on a GPU, or with D90_KERNEL=torch in the environment, the torch path of each projection runs. Both draw the same bits, and
their weights agree within 1e-6.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["LIBRARY", "fastfood_fold", "fastfood_forward", "library", "usable"]

LIBRARY = Path(__file__).with_name("_fastfood.so")
STRIPS = 16  # as in the C source

_log = logging.getLogger("d90")


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where the torch path is to run; says once which."""
    if os.environ.get("D90_KERNEL") == "torch":
        _log.info("projections run on torch (D90_KERNEL=torch)")
        return None
    try:
        loaded = ctypes.CDLL(str(LIBRARY))  # torch is imported by now, so its OpenMP runtime is the one that is found
    except OSError as error:
        _log.info("projections run on torch: no compiled kernel (%s); reinstall where a C compiler is found", error)
        return None
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    loaded.d90_fastfood_forward.argtypes = [word, *[pointer] * 6, word, word, ctypes.c_uint64, word]
    loaded.d90_fastfood_forward.restype = None
    loaded.d90_fastfood_fold.argtypes = [*[pointer] * 3, word, ctypes.c_double, word, word, word, ctypes.c_uint64, word]
    loaded.d90_fastfood_fold.restype = None
    _log.info("projections run on the compiled kernel, %d threads", torch.get_num_threads())
    return loaded


def usable(*tensors: Tensor) -> bool:
    """Whether the kernel can take these tensors: fp32, contiguous, on the CPU."""
    return library() is not None and all(t.dtype == torch.float32 and t.is_cpu and t.is_contiguous() for t in tensors)


def fastfood_forward(
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    zs: Sequence[Tensor],
    factors: Sequence[float],
    first_blocks: Sequence[int],
    shape: tuple[int, int],
    seed: int,
) -> None:
    """out = base + factor S H D z for each tensor, in one call; shape is (d_pad, m)."""
    count = len(outs)
    pointers = [(ctypes.c_void_p * count)(*(t.data_ptr() for t in group)) for group in (outs, bases, zs)]
    sizes = (ctypes.c_int64 * count)(*(t.numel() for t in outs))
    scale = (ctypes.c_float * count)(*factors)
    first = (ctypes.c_int64 * count)(*first_blocks)
    loaded = library()
    assert loaded is not None  # callers ask `usable` first
    loaded.d90_fastfood_forward(count, *pointers, sizes, scale, first, *shape, seed, torch.get_num_threads())


def fastfood_fold(
    z_gradient: Tensor, g: Tensor, factor: float, first_block: int, shape: tuple[int, int], seed: int
) -> None:
    """z_gradient (fp64) += factor D H S g for one tensor."""
    blocks = -(-g.numel() // shape[1])
    partial = z_gradient.new_zeros(STRIPS * shape[0]) if blocks >= 2 * STRIPS else z_gradient
    pointers = (z_gradient.data_ptr(), partial.data_ptr(), g.data_ptr())
    loaded = library()
    assert loaded is not None  # callers ask `usable` first
    loaded.d90_fastfood_fold(*pointers, g.numel(), factor, first_block, *shape, seed, torch.get_num_threads())
