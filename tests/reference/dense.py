"""Every projection as an explicit matrix, built from its equation and plain-Python Philox. Nothing here imports d90."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tests.reference.philox import gaussians, signs, words

Matrix = NDArray[np.float64]


@lru_cache(maxsize=64)
def matrix(spec: str, d: int, shapes: tuple[int | tuple[int, ...], ...], seed: int) -> Matrix:
    """P (D, d) in fp64 over segments, each given by its number of rows or its shape."""
    name, _, entries = spec.partition(":")
    if name == "kronecker":
        return kronecker(d, shapes, seed, entries)
    sizes = [shape if isinstance(shape, int) else math.prod(shape) for shape in shapes]
    return {"dense": dense, "sparse": sparse, "fastfood": fastfood, "onehot": onehot, "cyclic": cyclic}[name](
        d, sizes, seed, entries
    )


@lru_cache(maxsize=16)
def hadamard(n: int) -> Matrix:
    """H_ij = (-1)^(number of ones in i & j), Sylvester order."""
    return np.array([[1.0 - 2.0 * ((i & j).bit_count() & 1) for j in range(n)] for i in range(n)])


def diagonal(entries: Sequence[float], matrix: Matrix) -> Matrix:
    """diag(entries) @ matrix."""
    return np.asarray(entries, dtype=np.float64)[:, None] * matrix


def order_of(keys: Sequence[int]) -> list[int]:
    return sorted(range(len(keys)), key=lambda i: (keys[i], i))


def fastfood(d: int, sizes: Sequence[int], seed: int, entries: str) -> Matrix:
    d_pad = 2 ** math.ceil(math.log2(d))
    m, total = min(d_pad, 1024), sum(sizes)
    b = diagonal(signs(seed, "fastfood.B", 0, d_pad), np.eye(d_pad, d))
    order = order_of(words(seed, "fastfood.Pi", 0, d_pad))  # (Pi x)_i = x_order[i]
    z = (hadamard(d_pad) @ b)[order] / math.sqrt(d_pad)
    h, s = hadamard(m), math.sqrt(d_pad / (m * total))
    parts, block = [], 0
    draw = signs if entries == "sign" else gaussians
    for size in sizes:
        rows = []
        for _ in range(0, size, m):
            chunk = block % (d_pad // m)
            inner = diagonal(draw(seed, "fastfood.inner", block, m), z[chunk * m : (chunk + 1) * m])
            rows.append(s * diagonal(signs(seed, "fastfood.outer", block, m), h @ inner))
            block += 1
        parts.append(np.concatenate([np.zeros((0, d)), *rows])[:size])
    return np.concatenate(parts)


def dense(d: int, sizes: Sequence[int], seed: int, entries: str) -> Matrix:
    draw = signs if entries == "sign" else gaussians
    return np.array([draw(seed, "dense", row, d) for row in range(sum(sizes))]) / math.sqrt(sum(sizes))


def sparse(d: int, sizes: Sequence[int], seed: int, entries: str) -> Matrix:
    total = sum(sizes)
    p, start, block = np.zeros((total, d)), 0, 0
    for size in sizes:
        for low in range(0, size, 1024):
            n = min(1024, size - low)
            wanted = n * d / math.sqrt(total)
            groups = words(seed, "sparse", block, 4 * (math.floor(wanted) + 2))
            kept = math.floor(wanted) + ((groups[0] + 0.5) / 2**32 < wanted - math.floor(wanted))
            for k in range(1, kept + 1):
                row, column, sign, _ = groups[4 * k : 4 * k + 4]
                at = start + low + (row * n >> 32), column * d >> 32
                p[at] += (-1 if sign & 1 else 1) * total**-0.25
            block += 1
        start += size
    return p


def onehot(d: int, sizes: Sequence[int], seed: int, entries: str) -> Matrix:
    total = sum(sizes)
    pi = order_of(words(seed, "onehot.columns", 0, d))
    coprime = [a for a in range(1, d + 1) if math.gcd(a, d) == 1]
    p = np.zeros((total, d))
    for row in range(total):
        k, i = divmod(row, d)
        first, second = words(seed, "onehot.columns", 1 + k, 2)
        a, b = coprime[first * len(coprime) >> 32], second * d >> 32
        sign = 1 if entries == "one" else signs(seed, "onehot.signs", row // 1024, 1024)[row % 1024]
        p[row, pi[(a * i + b) % d]] = sign
    return p / np.sqrt(np.abs(p).sum(axis=0))


def kronecker(d: int, sizes: Sequence[int | Sequence[int]], seed: int, entries: str) -> Matrix:
    """Row (i, j) of a segment is B_i (x) A_j / sqrt(D)."""
    q, rows, first_row, first_column = math.isqrt(d), [], 0, 0
    for shape in sizes:
        n, *rest = (shape,) if isinstance(shape, int) else shape or (1,)
        width = math.prod(rest)
        b = np.array([signs(seed, "kronecker.rows", first_row + i, q) for i in range(n)]).reshape(n, q)
        a = np.array([signs(seed, "kronecker.columns", first_column + j, q) for j in range(width)]).reshape(width, q)
        rows.append(np.einsum("ik,jl->ijkl", b, a).reshape(n * width, d))
        first_row, first_column = first_row + n, first_column + width
    p: Matrix = np.concatenate(rows)
    return p / math.sqrt(len(p))


def cyclic(d: int, sizes: Sequence[int], seed: int, entries: str) -> Matrix:
    """tests/reference/cyclic.py, by its equation."""
    p = np.zeros((sum(sizes), d))
    for row in range(len(p)):
        p[row, row % d] = signs(seed, "probe", row // 1024, 1024)[row % 1024]
    return p / np.sqrt(np.abs(p).sum(axis=0))
