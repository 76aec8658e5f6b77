"""The compiled kernels: which path is used is decided here, once, and said in one log line.

Without a library (no compiler at install time), on another device, or for tensors a kernel does not take, the same map is done by
torch. `D90_KERNEL=avx512|avx2|portable|torch` forces a path.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from d90.errors import InputError
from d90.projections.kernels.build import LIBRARY

if TYPE_CHECKING:
    from d90.projections.base import Target

__all__ = ["PATHS", "FastfoodKernel", "active", "available", "forced", "words"]

PATHS = ("portable", "avx2", "avx512")  # numbered as in the C file
ABI = 1
STREAM_BYTES = 32 << 20  # tensors above this are written past the caches

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_log = logging.getLogger("d90")
_forced: list[str] = []


class _Fastfood(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("m", ctypes.c_int64),
        ("chunks", ctypes.c_int64),
        ("gaussian", ctypes.c_int32),
        ("path", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("parallel", ctypes.c_void_p),
        ("stream_bytes", ctypes.c_int64),
    )


_TARGET = struct.Struct("@PPPqqqdii")  # target_t
_GRADIENT = struct.Struct("@PqqdPqqii")  # gradient_t


class _Library:
    """The shared library, its functions typed, and torch's own thread pool."""

    def __init__(self, path: Path) -> None:
        c = ctypes.CDLL(str(path))
        if c.d90_abi() != ABI:
            raise OSError("the library is of another version; reinstall d90 or run: python -m d90.projections.kernels")
        pointer, i64, u64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
        self.write, self.fold, self.words = c.d90_fastfood_write, c.d90_fastfood_fold, c.d90_words
        self.write.argtypes = [ctypes.POINTER(_Fastfood), ctypes.c_char_p, i64]
        self.fold.argtypes = [ctypes.POINTER(_Fastfood), ctypes.c_char_p, pointer]
        self.words.argtypes = [ctypes.c_int, u64, u64, pointer, i64, i64, pointer]
        self.words.restype = None
        self.best: int = c.d90_best_path()
        self.parallel = _thread_pool()


def _thread_pool() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch is linked with: looking it up through torch's own library finds no other."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).with_name("lib") / name
        if path.exists():
            try:
                return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p).value
            except (OSError, AttributeError):
                return None
    return None


@lru_cache(maxsize=1)
def _library() -> _Library | str:
    """The library, or why there is none."""
    path = Path(__file__).with_name(LIBRARY)
    if not path.exists():
        return "no compiled library"
    try:
        return _Library(path)
    except (OSError, AttributeError) as error:
        return str(error).splitlines()[0]


def available() -> tuple[str, ...]:
    """The compiled paths this machine can run, the best one last."""
    library = _library()
    return () if isinstance(library, str) else PATHS[: library.best + 1]


@lru_cache(maxsize=8)
def _choose(wanted: str) -> str:
    """The path to use, and the one log line about it."""
    if wanted not in ("", "torch", *PATHS):
        raise InputError(f"got D90_KERNEL={wanted}, expected one of torch, {', '.join(PATHS)}")
    library, paths = _library(), available()
    if wanted not in ("", "torch", *paths):
        why = library if isinstance(library, str) else "not supported by this processor"
        raise InputError(f"got D90_KERNEL={wanted}, which cannot run here: {why}")
    chosen = wanted or (paths[-1] if paths else "torch")
    why = f" ({library})" if isinstance(library, str) and not wanted else ""
    threads = "" if isinstance(library, str) or library.parallel or chosen == "torch" else ", one thread"
    _log.info("projections run on the %s path%s%s", chosen, why, threads)
    return chosen


def active() -> str:
    """The path in use: "avx512", "avx2", "portable" or "torch"."""
    return _forced[-1] if _forced else _choose(os.environ.get("D90_KERNEL", ""))


@contextmanager
def forced(path: str) -> Iterator[None]:
    """Use one path inside a `with` block, in every thread: for tests and benchmarks."""
    _forced.append(_choose(path))
    try:
        yield
    finally:
        _forced.pop()


def _ready(tensor: Tensor) -> bool:
    """Whether a kernel can work on this tensor where it lies."""
    return tensor.device.type == "cpu" and tensor.dtype in _TYPES and tensor.is_contiguous()


class FastfoodKernel:
    """The fused passes of one Fastfood projection: blocks of m rows over `chunks` chunks of z, scaled by s."""

    def __init__(
        self, seed: int, m: int, chunks: int, gaussian: bool, s: float, first: Sequence[int], dither: Sequence[int]
    ) -> None:
        self.seed, self.m, self.chunks, self.gaussian, self.s = seed, m, chunks, gaussian, s
        self.first, self.dither = first, dither

    def write(self, targets: Sequence[Target]) -> list[Target]:
        """Write the tensors a kernel can write; returns the others."""
        found = self._open()
        if found is None:
            return list(targets)
        library, header = found
        left, packed, alive = [], bytearray(), []
        for target in targets:
            segment, base, factor, z, out = target
            if not (_ready(base) and _ready(out) and z.device.type == "cpu" and z.dtype == torch.float32):
                left.append(target)
                continue
            if base.numel() != out.numel():
                raise InputError(f"got base of {base.numel()} numbers for out of {out.numel()}, expected the same")
            z = z.contiguous()
            alive.append(z)
            places = (
                base.data_ptr(),
                out.data_ptr(),
                z.data_ptr(),
                out.numel(),
                self.first[segment],
                self.dither[segment],
            )
            packed += _TARGET.pack(*places, factor * self.s, _TYPES[base.dtype], _TYPES[out.dtype])
        if packed and library.write(ctypes.byref(header), bytes(packed), len(packed) // _TARGET.size):
            raise MemoryError("no memory to write the weights")
        return left

    def fold(
        self, g: Tensor, segment: int, z_gradient: Tensor, rows: Tensor | None = None, width: int = 0, size: int = 0
    ) -> bool:
        """z_gradient += s R^T g, or leave it to torch and return False. With `rows`, g holds those rows (k, width) of a gradient of `size`."""
        found = self._open()
        if found is None or not (_ready(g) and z_gradient.device.type == "cpu" and z_gradient.is_contiguous()):
            return False
        library, header = found
        place, count = (0, 0) if rows is None else (rows.data_ptr(), len(rows))
        size = g.numel() if rows is None else size
        packed = _GRADIENT.pack(
            g.data_ptr(), size, self.first[segment], self.s, place, count, width, _TYPES[g.dtype], 0
        )
        if library.fold(ctypes.byref(header), packed, z_gradient.data_ptr()):
            raise MemoryError("no memory to fold the gradient")
        return True

    def _open(self) -> tuple[_Library, _Fastfood] | None:
        path, library = active(), _library()
        if path == "torch" or isinstance(library, str):
            return None
        threads, number = torch.get_num_threads(), PATHS.index(path)
        place = (self.seed, self.m, self.chunks, self.gaussian, number, threads, 0, library.parallel, STREAM_BYTES)
        return library, _Fastfood(*place)


def words(path: str, seed: int, stream: int, blocks: Tensor, groups: int) -> Tensor:
    """`philox.words` from a compiled path, for the tests."""
    library = _library()
    assert not isinstance(library, str)
    out = torch.empty(len(blocks), 4 * groups, dtype=torch.int32)
    library.words(PATHS.index(path), seed, stream, blocks.data_ptr(), len(blocks), groups, out.data_ptr())
    return out.to(torch.int64) & 0xFFFFFFFF
