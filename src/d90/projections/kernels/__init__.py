"""The compiled kernels: which path is used is decided here, once, and said in one log line.

On the CPU a compiled library, on an NVIDIA GPU Triton (`gpu.py`); without them, or for maps and tensors they do not take, torch
does the same. `D90_KERNEL=avx512|avx2|portable|torch` forces a path; torch that on a GPU too.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
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
from d90.projections.kernels.build import LIBRARY, source_crc
from d90.projections.targets import Fold, Target

if TYPE_CHECKING:
    from d90.projections.kernels.gpu import FastfoodOnGpu

__all__ = ["PATHS", "DenseKernel", "FastfoodKernel", "Kernel", "OneHotKernel", "active", "available", "forced", "words"]

PATHS = ("portable", "avx2", "avx512")  # numbered as in the C file
STREAM_BYTES = 8 << 20  # a call that writes more than this writes past the caches

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_log = logging.getLogger("d90")
_forced: list[str] = []


_HOW = (  # what all maps end with
    ("path", ctypes.c_int32),
    ("threads", ctypes.c_int32),
    ("unused", ctypes.c_int32),
    ("parallel", ctypes.c_void_p),
    ("stream_bytes", ctypes.c_int64),
)


class _Fastfood(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("m", ctypes.c_int64),
        ("chunks", ctypes.c_int64),
        ("gaussian", ctypes.c_int32),
        *_HOW,
    )


class _OneHot(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("d", ctypes.c_int64),
        ("coprime_count", ctypes.c_int64),
        ("coprime", ctypes.c_void_p),
        ("pi", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("signs", ctypes.c_int32),
        *_HOW,
    )


class _Dense(ctypes.Structure):
    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("d", ctypes.c_int64),
        ("matrix", ctypes.c_void_p),
        ("gaussian", ctypes.c_int32),
        *_HOW,
    )


_TARGET = struct.Struct("@PPPqqqdii")  # target_t
_GRADIENT = struct.Struct("@PqqdPqqii")  # gradient_t


class Library:
    """The shared library, its functions typed, and torch's own thread pool."""

    def __init__(self, path: Path) -> None:
        c = ctypes.CDLL(str(path))
        c.d90_source.restype = ctypes.c_uint32
        if c.d90_source() != source_crc():
            raise OSError("the library is older than its source: run python -m d90.projections.kernels")
        pointer, i64, u64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64
        self.writers = (c.d90_fastfood_write, c.d90_onehot_write, c.d90_dense_write)
        self.folders = (c.d90_fastfood_fold, c.d90_onehot_fold, c.d90_dense_fold)
        for write in self.writers:
            write.argtypes = [pointer, ctypes.c_char_p, i64]
        for fold in self.folders:
            fold.argtypes = [pointer, ctypes.c_char_p, pointer]
        self.fill = c.d90_dense_fill
        self.fill.argtypes = [pointer, pointer, i64]
        self.fill.restype = None
        self.words = c.d90_words
        self.words.argtypes = [ctypes.c_int, u64, u64, pointer, i64, i64, i64, pointer]
        self.words.restype = None
        self.best: int = c.d90_best_path()
        self.parallel = _thread_pool()


def _thread_pool() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime torch is linked with: looked up by way of torch, it is no other."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).with_name("lib") / name
        if path.exists():
            try:
                return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p).value
            except (OSError, AttributeError):
                return None
    return None


@lru_cache(maxsize=1)
def _library() -> Library | str:
    """The library, or why there is none."""
    path = Path(__file__).with_name(LIBRARY)
    if not path.exists():
        return "no compiled library"
    try:
        return Library(path)
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
    return _forced[-1] if _forced else _default()


@lru_cache(maxsize=1)
def _default() -> str:
    return _choose(os.environ.get("D90_KERNEL", ""))


def reset() -> None:
    """Look for the library and read D90_KERNEL again at the next use: for tests that change one of them."""
    for known in (_library, _choose, _default):
        known.cache_clear()


@contextmanager
def forced(path: str) -> Iterator[None]:
    """Use one path inside a `with` block, in every thread: for tests and benchmarks."""
    _forced.append(_choose(path))
    try:
        yield
    finally:
        _forced.pop()


def _kind(tensor: Tensor) -> int | None:
    """The number of this tensor's type, if a kernel can work on it where it lies."""
    return _TYPES.get(tensor.dtype) if tensor.is_cpu and tensor.is_contiguous() else None


def on_gpu(tensor: Tensor) -> bool:
    """Whether the GPU's kernels can work on this tensor where it lies."""
    return tensor.is_cuda and tensor.is_contiguous() and tensor.dtype in _TYPES


@lru_cache(maxsize=1)
def _triton() -> bool:
    """Whether there is Triton, and the one log line about it."""
    found = importlib.util.find_spec("triton") is not None and torch.version.hip is None
    _log.info("projections on the GPU run %s", "on Triton" if found else "on torch: no package triton")
    return found


Segments = tuple[Sequence[int], Sequence[int], Sequence[int]]


class Kernel:
    """What the kernels share: which tensors they take, and how these are handed over.

    `segments` are the sizes, the first block (Fastfood) or row (the others), and the first dither block of each segment.
    """

    number: int  # among the library's writers and folders

    def __init__(self, scale: float, z_size: int, segments: Segments) -> None:
        self.scale, self.z_size = scale, z_size
        self.sizes, self.first, self.dither = segments
        self.headers: dict[tuple[int, int, int | None, int], ctypes.Structure] = {}

    def __deepcopy__(self, memo: object) -> Kernel:
        return self  # what it holds is found again the same, and its headers hold addresses

    def header(self, path: int, threads: int, parallel: int | None, stream_bytes: int) -> ctypes.Structure:
        """The C structure that describes the map; it may point into tensors of self."""
        raise NotImplementedError

    def at(self, z: Tensor) -> Tensor:
        """What the C code reads in place of z."""
        return z

    def gpu_kernel(self) -> FastfoodOnGpu | None:
        """The same map on a GPU, where there is a kernel for it."""
        return None

    def write(self, targets: Sequence[Target]) -> Sequence[Target]:
        """Write the tensors that a kernel can write; returns the others."""
        return self._write_on_gpu(self._write_on_cpu(targets))

    def _write_on_gpu(self, targets: Sequence[Target]) -> Sequence[Target]:
        gpu = self.gpu_for(targets[0].out) if targets else None
        if gpu is None:
            return targets
        left: list[Target] = []
        alike: dict[tuple[torch.dtype, torch.dtype], list[Target]] = {}
        for target in targets:
            _, base, _, z, out = target
            if not (on_gpu(base) and on_gpu(out) and on_gpu(z)):
                left.append(target)
            elif out.numel():
                self._check_size(base, target.segment)
                self._check_size(out, target.segment)
                self._check_length(z)
                alike.setdefault((base.dtype, out.dtype), []).append(target)
        for group in alike.values():
            gpu.write(group)
        return left

    def gpu_for(self, tensor: Tensor) -> FastfoodOnGpu | None:
        """The kernels for a tensor that lies on a GPU."""
        return self.gpu_kernel() if on_gpu(tensor) and active() != "torch" else None

    def _write_on_cpu(self, targets: Sequence[Target]) -> Sequence[Target]:
        taken = [None not in (_kind(base), _kind(out)) and _kind(z) == 0 for _, base, _, z, out in targets]
        found = self._open() if any(taken) else None  # a header may cost memory
        if found is None:
            return targets
        library, header = found
        packed = []
        read: dict[int, Tensor] = {}  # one z usually serves all
        for segment, base, factor, z, out in itertools.compress(targets, taken):
            self._check_size(base, segment)
            self._check_size(out, segment)
            if id(z) not in read:
                self._check_length(z)
                read[id(z)] = self.at(z)
            z_at = read[id(z)].data_ptr()
            places = (base.data_ptr(), out.data_ptr(), z_at, out.numel(), self.first[segment], self.dither[segment])
            packed.append(_TARGET.pack(*places, factor * self.scale, _TYPES[base.dtype], _TYPES[out.dtype]))
        if library.writers[self.number](ctypes.byref(header), b"".join(packed), len(packed)):
            raise MemoryError("no memory to write the weights")
        return [target for target, is_taken in zip(targets, taken, strict=True) if not is_taken]

    def fold(self, g: Tensor, segment: int, z_gradient: Tensor) -> bool:
        """z_gradient += R^T g; returns False, with nothing done, where it is torch's work."""
        self._check_size(g, segment)
        if (gpu := self.gpu_for(g)) is not None:
            self._check_length(z_gradient)
            gpu.fold([Fold(segment, g, 1.0, 0)], z_gradient)
            return True
        return self._fold(g, segment, z_gradient, 0, 0, 0)

    def fold_together(self, folds: Sequence[Fold], z_gradients: Tensor) -> Sequence[Fold]:
        """Fold the gradients that lie on a GPU, in a launch for each type; returns the others."""
        gpu = self.gpu_for(folds[0].g) if folds else None
        if gpu is None:
            return folds
        left: list[Fold] = []
        alike: dict[torch.dtype, list[Fold]] = {}
        for fold in folds:
            if not on_gpu(fold.g):
                left.append(fold)
            else:
                self._check_size(fold.g, fold.segment)
                alike.setdefault(fold.g.dtype, []).append(fold)
        for group in alike.values():
            gpu.fold(group, z_gradients)
        return left

    def fold_rows(self, rows: Tensor, values: Tensor, segment: int, z_gradient: Tensor) -> bool:
        """The same for a matrix whose rows (k,), sorted, are `values` (k, width), the others zero."""
        if self.gpu_for(values) is not None:  # the gradient as it would be if it were dense, for a moment
            g = values.new_zeros(self.sizes[segment])
            g.view(-1, values.shape[1])[rows] = values
            return self.fold(g, segment, z_gradient)
        if rows.dtype != torch.int64 or not (rows.is_cpu and rows.is_contiguous()):
            return False
        return self._fold(values, segment, z_gradient, rows.data_ptr(), len(rows), values.shape[1])

    def _fold(self, g: Tensor, segment: int, z_gradient: Tensor, rows: int, count: int, width: int) -> bool:
        kind, size = _kind(g), self.sizes[segment]
        if kind is None or not (z_gradient.is_cpu and z_gradient.is_contiguous()) or (found := self._open()) is None:
            return False
        if z_gradient.dtype != torch.float64:
            raise InputError(f"got z_gradient in {z_gradient.dtype}, expected torch.float64: see new_z_gradient()")
        self._check_length(z_gradient)
        library, header = found
        packed = _GRADIENT.pack(g.data_ptr(), size, self.first[segment], self.scale, rows, count, width, kind, 0)
        if size and library.folders[self.number](ctypes.byref(header), packed, z_gradient.data_ptr()):
            raise MemoryError("no memory to fold the gradient")
        return True

    def _check_size(self, tensor: Tensor, segment: int) -> None:
        if tensor.numel() != self.sizes[segment]:
            raise InputError(
                f"got a tensor of {tensor.numel()} numbers for a segment of {self.sizes[segment]}, expected as many"
            )

    def _check_length(self, z: Tensor) -> None:
        if z.numel() != self.z_size:  # the C code would read or write beyond its end
            raise InputError(f"got {z.numel()} numbers in z-space, expected {self.z_size}")

    def _open(self) -> tuple[Library, ctypes.Structure] | None:
        path, library = active(), _library()
        if path == "torch" or isinstance(library, str):
            return None
        key = (PATHS.index(path), torch.get_num_threads(), library.parallel, STREAM_BYTES)
        header = self.headers.get(key)
        if header is None:
            header = self.headers[key] = self.header(*key)
        return library, header


class FastfoodKernel(Kernel):
    """Fastfood: blocks of m rows over `chunks` chunks of z, scaled by s."""

    number = 0

    def __init__(self, seed: int, m: int, chunks: int, gaussian: bool, s: float, segments: Segments) -> None:
        super().__init__(s, m * chunks, segments)
        self.map = (seed, m, chunks, gaussian)
        self._gpu: FastfoodOnGpu | None = None

    def gpu_kernel(self) -> FastfoodOnGpu | None:
        if self._gpu is None and _triton():
            from d90.projections.kernels.gpu import FastfoodOnGpu

            self._gpu = FastfoodOnGpu(*self.map, self.scale, (self.sizes, self.first, self.dither))
        return self._gpu

    def header(self, path: int, threads: int, parallel: int | None, stream_bytes: int) -> ctypes.Structure:
        return _Fastfood(*self.map, path, threads, 0, parallel, stream_bytes)


class OneHotKernel(Kernel):
    """One-hot: `tables` are the numbers coprime to d, pi, and the columns' weights."""

    number = 1

    def __init__(self, seed: int, tables: tuple[Tensor, Tensor, Tensor], signs: bool, segments: Segments) -> None:
        super().__init__(1.0, len(tables[1]), segments)
        self.seed, self.signs = seed, signs
        self.coprime, self.pi, self.weight = (table.cpu() for table in tables)

    def header(self, path: int, threads: int, parallel: int | None, stream_bytes: int) -> ctypes.Structure:
        tables = (self.coprime.data_ptr(), self.pi.data_ptr(), self.weight.data_ptr())
        counts = (len(self.pi), len(self.coprime))
        return _OneHot(self.seed, *counts, *tables, self.signs, path, threads, 0, parallel, stream_bytes)

    def at(self, z: Tensor) -> Tensor:
        return (z * self.weight)[self.pi]


class DenseKernel(Kernel):
    """Dense: `shape` is (D, d); with `kept` the Gaussians are drawn once and stay in memory, a matrix for each path in use."""

    number = 2

    def __init__(self, seed: int, shape: tuple[int, int], gaussian: bool, kept: bool, segments: Segments) -> None:
        super().__init__(shape[0] ** -0.5, shape[1], segments)
        self.seed, self.shape, self.gaussian, self.kept = seed, shape, gaussian, kept
        self.matrices: dict[int, Tensor] = {}

    def header(self, path: int, threads: int, parallel: int | None, stream_bytes: int) -> ctypes.Structure:
        rest = (self.gaussian, path, threads, 0, parallel, stream_bytes)
        matrix = self._matrix(path, _Dense(self.seed, self.shape[1], None, *rest)) if self.kept else None
        return _Dense(self.seed, self.shape[1], matrix, *rest)

    def _matrix(self, path: int, header: ctypes.Structure) -> int:
        library, (rows, d) = _library(), self.shape
        assert not isinstance(library, str)
        if path not in self.matrices:
            drawn = torch.zeros(rows * d + 16)  # the C code reads the last row in whole vectors
            library.fill(ctypes.byref(header), drawn.data_ptr(), rows)
            self.matrices.setdefault(path, drawn)  # the first of two threads: its address may be in use already
        return self.matrices[path].data_ptr()


def words(path: str, seed: int, stream: int, blocks: Tensor, groups: int, rows: int = 1) -> Tensor:
    """`philox.words` of `rows` consecutive blocks from each one given, out of a compiled path: for the tests."""
    library, count = _library(), len(blocks) * rows * 4 * groups
    assert not isinstance(library, str)
    out = torch.empty(count + 64, dtype=torch.int32)  # a path draws whole vectors
    library.words(PATHS.index(path), seed, stream, blocks.data_ptr(), len(blocks), rows, groups, out.data_ptr())
    return out[:count].reshape(len(blocks) * rows, 4 * groups).to(torch.int64) & 0xFFFFFFFF
