"""The contract of a projection P: R^d -> R^D, over a list of segments (the tensors of a model).

    forward   theta (d,) -> P theta (D,)
    adjoint   g (D,)     -> P^T g (d,)
    columns   E |P e_j|^2 = 1

A variant writes five short methods (`prepare`, `rows`, `fold`, `finish`, `draws`); everything else comes free. The work
is cut into chunks of rows, so scratch memory is a few chunks whatever D is, and nothing of size D is held.
Vectors "in z-space" are what stands between the once-a-step part and the rows: z = prepare(theta), P theta = R z.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor

from d90.errors import InputError
from d90.projections.kernels import Kernel
from d90.projections.philox import BLOCK
from d90.projections.rounding import HALF_TYPES, round_dithered
from d90.projections.targets import Fold, Target

__all__ = ["CHUNK", "Fold", "Projection", "Target", "even_blocks", "exact"]

CHUNK = 1 << 20  # rows worked on at a time; any multiple of BLOCK gives the same result


_P = ParamSpec("_P")
_R = TypeVar("_R")


def exact(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run without autograd and outside autocast: a forward hook runs inside the user's autocast, which would round P to bf16."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return call


def even_blocks(count: int, most: int = 16) -> Tensor:
    """At most `most` block numbers spread evenly over 0 ... count - 1, the first and the last among them."""
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).round().to(torch.int64)


class Projection(ABC):
    """A random linear map with unit columns in expectation, defined by (seed, d, segment sizes) alone.

    Args:
        d: number of coordinates, d >= 1.
        sizes: number of rows of each segment (an int means one segment); D is their sum.
        seed: 64-bit seed of the draws.

    Raises:
        InputError: d < 1, d > D, or a seed outside 64 bits.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    entry_kinds: ClassVar[tuple[str, ...]] = ("sign",)
    squares: ClassVar[bool] = False  # whether d must be a square
    low_rank: ClassVar[bool] = False  # whether a segment's change is a product that `factored` gives
    by_shape: ClassVar[bool] = False  # whether segments are given by their shapes, as it matters how they lie
    kernel: Kernel | None = None  # does the same in one pass, for the tensors it takes

    def __init__(self, d: int, sizes: int | Sequence[int], seed: int = 0, entries: str | None = None) -> None:
        self.sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        self.D = sum(self.sizes)
        try:
            self.d = operator.index(d)
        except TypeError:
            raise InputError(f"got d={d!r}, expected a whole number") from None
        self.seed = seed
        self.entries = entries if entries is not None else self.entry_kinds[0]
        if self.entries not in self.entry_kinds:
            kinds = " or ".join(repr(kind) for kind in self.entry_kinds)
            raise InputError(f"{self.name} projection: got entries='{entries}', expected {kinds}")
        if d < 1:
            raise InputError(f"got d={d}, expected at least 1: a subspace needs a dimension")
        if d > self.D:
            raise InputError(
                f"got d={d}, above D={self.D}, the number of weights it would move; expected d <= D. "
                "Likely cause: a small model, or most of it frozen. Lower d."
            )
        if not 0 <= seed < 1 << 64:
            raise InputError(f"got seed={seed}, expected a 64-bit number, 0 <= seed < 2^64")
        self.starts = tuple(accumulate(self.sizes, initial=0))[:-1]
        self.dither_blocks = tuple(accumulate((-(-size // BLOCK) for size in self.sizes), initial=0))[:-1]

    # --- what a variant writes -------------------------------------------------------------------------------------

    @property
    def z_size(self) -> int:
        """Length of a vector in z-space."""
        return self.d

    @classmethod
    def nearest(cls, d: int) -> int:
        """The number of coordinates next to d that it can have: the nearest square where only those will do."""
        return max(1, round(math.sqrt(d))) ** 2 if cls.squares else d

    @property
    def kept_bytes(self) -> int:
        """What it keeps of P in memory, beyond a few vectors of length d."""
        return 0

    def factored(self, z: Tensor, segment: int) -> tuple[Tensor, Tensor, Tensor]:
        """(left (n, q), middle (q, q), right (w, q)): a segment of P theta is left middle right^T; of projections of low rank."""
        raise NotImplementedError(f"{self.name} has no factors")

    def prepare(self, theta: Tensor) -> Tensor:
        """The part done once a step: theta (d,) -> z (z_size,) in fp32. Linear."""
        return theta.float()

    @abstractmethod
    def rows(self, z: Tensor, segment: int, low: int, high: int) -> Tensor:
        """Rows low ... high of one segment of P theta, fp32; `low` is a multiple of CHUNK."""

    @abstractmethod
    def fold(self, g: Tensor, segment: int, low: int, z_gradient: Tensor) -> None:
        """Add the rows' transpose times g (fp32, rows low ... low + len(g)) to `z_gradient` (z_size,) fp64."""

    def finish(self, z_gradient: Tensor) -> Tensor:
        """Transpose of `prepare`: (z_size,) fp64 -> (d,) fp32."""
        return z_gradient.float()

    @abstractmethod
    def draws(self) -> Iterator[Tensor]:
        """A sample of the integer draws that define P, for the checksum."""

    # --- what comes free -------------------------------------------------------------------------------------------

    def chunks(self, segment: int) -> Iterator[tuple[int, int]]:
        """The row ranges one segment is worked through in."""
        size = self.sizes[segment]
        return ((low, min(low + CHUNK, size)) for low in range(0, size, CHUNK))

    def write(self, targets: Sequence[Target]) -> None:
        """Write tensors of the model in one pass; half precision is rounded with the dither of this seed."""
        if self.kernel is not None:
            targets = self.kernel.write(targets)
        for segment, base, factor, z, out in targets:
            first = self.dither_blocks[segment]
            for low, high in self.chunks(segment):
                start = base[low:high]
                start = start.float() if start.dtype in HALF_TYPES else start  # fp64 stays fp64
                value = torch.add(start, self.rows(z, segment, low, high), alpha=factor)
                if out.dtype in HALF_TYPES:
                    value = round_dithered(value, out.dtype, self.seed, first + low // BLOCK)
                out[low:high] = value

    def fold_segment(self, g: Tensor, segment: int, z_gradient: Tensor) -> None:
        """Add P_segment^T g (in z-space) to `z_gradient`; g is flat, of any floating dtype."""
        if self.kernel is not None and self.kernel.fold(g, segment, z_gradient):
            return
        for low, high in self.chunks(segment):
            self.fold(g[low:high].float(), segment, low, z_gradient)

    def folds_together(self, g: Tensor) -> bool:
        """Whether gradients that lie where `g` does are better folded several at once: one launch on a GPU."""
        return self.kernel is not None and self.kernel.gpu_for(g) is not None

    def fold_together(self, folds: Sequence[Fold], z_gradients: Tensor) -> None:
        """Fold gradients into the rows of `z_gradients` (rows, z_size), fp64."""
        if self.kernel is not None:
            folds = self.kernel.fold_together(folds, z_gradients)
        for segment, g, factor, row in folds:
            part = self.new_z_gradient(g.device)
            self.fold_segment(g, segment, part)
            z_gradients[row].add_(part, alpha=factor)

    def fold_sparse(self, rows: Tensor, values: Tensor, shape: Sequence[int], segment: int, z_gradient: Tensor) -> None:
        """The same for a matrix of `shape` whose gradient is zero but for `values` (k, width) in the k rows `rows`.

        It costs what the blocks with such rows cost, not the whole tensor. Rows may repeat, and come in any order.

        Raises:
            InputError: the shape is not the segment's, or rows outside it.
        """
        size, width = self.sizes[segment], math.prod(shape[1:])
        if math.prod(shape) != size or values.numel() != len(rows) * width:
            raise InputError(
                f"got {tuple(values.shape)} values in {len(rows)} rows of a {tuple(shape)} gradient, "
                f"expected rows of a segment of {size} numbers"
            )
        if values.numel() == 0:
            return
        if not bool((rows[1:] > rows[:-1]).all()):
            rows, place = torch.unique(rows, return_inverse=True)
            values = values.new_zeros(len(rows), *values.shape[1:]).index_add_(0, place, values)
        if rows[0] < 0 or rows[-1] >= shape[0]:
            raise InputError(f"got rows {int(rows[0])} ... {int(rows[-1])}, expected 0 ... {shape[0] - 1}")
        self._fold_rows(rows.contiguous(), values.reshape(len(rows), width).contiguous(), segment, z_gradient)

    def _fold_rows(self, rows: Tensor, values: Tensor, segment: int, z_gradient: Tensor) -> None:
        width = values.shape[1]
        if self.kernel is not None and self.kernel.fold_rows(rows, values, segment, z_gradient):
            return
        for low, high in self.chunks(segment):
            ends = torch.tensor([low // width, -(-high // width)], device=rows.device)
            first, last = torch.searchsorted(rows, ends).tolist()
            if first == last:
                continue
            places = (rows[first:last, None] * width + torch.arange(-low, width - low, device=rows.device)).reshape(-1)
            inside = (places >= 0) & (places < high - low)
            g = torch.zeros(high - low, device=values.device)
            g[places[inside]] = values[first:last].reshape(-1)[inside].float()
            self.fold(g, segment, low, z_gradient)

    @exact
    def forward(self, theta: Tensor) -> Tensor:
        """P theta: (d,) -> (D,), fp32."""
        self._expect(theta, self.d, "theta")
        z = self.prepare(theta.detach())
        out = torch.zeros(self.D, device=theta.device)
        parts = [out[start : start + size] for start, size in zip(self.starts, self.sizes, strict=True)]
        self.write([Target(segment, part, 1.0, z, part) for segment, part in enumerate(parts)])
        return out

    @exact
    def adjoint(self, g: Tensor) -> Tensor:
        """P^T g: (D,) -> (d,), fp32, so that <P x, y> = <x, P^T y>."""
        self._expect(g, self.D, "g")
        z_gradient = self.new_z_gradient(g.device)
        for segment, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            self.fold_segment(g.detach()[start : start + size], segment, z_gradient)
        return self.finish(z_gradient)

    def dense(self) -> Tensor:
        """P as a (D, d) matrix, column by column: for tests and small problems."""
        return torch.stack([self.forward(column) for column in torch.eye(self.d)], dim=1)

    def new_z_gradient(self, device: torch.device | str = "cpu") -> Tensor:
        """Zeros to fold into: (z_size,) fp64, so that the order of summation does not show."""
        return torch.zeros(self.z_size, dtype=torch.float64, device=device)

    def checksum(self) -> str:
        """16 hex digits over a fixed sample of the integer draws: equal on every path, device and thread count."""
        digest = hashlib.sha256(f"{self.name}|{self.version}|{self.entries}|{self.d}|{self.sizes}".encode())
        for words in self.draws():
            digest.update(words.to("cpu", torch.int64).contiguous().numpy().astype("<u4").tobytes())
        return digest.hexdigest()[:16]

    def _expect(self, vector: Tensor, length: int, name: str) -> None:
        if vector.shape != (length,):
            raise InputError(f"{self.name} projection: got {name} of shape {tuple(vector.shape)}, expected ({length},)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(d={self.d}, D={self.D}, seed={self.seed}, entries='{self.entries}')"
