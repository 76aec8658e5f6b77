"""Do two changes of a matrix use the same directions? (Hu et al. 2021, sections 7.2, 7.3, appendices G, H)

    phi(i, j) = || U_a^i^T U_b^j ||_F^2 / min(i, j)      U^i: the first i singular directions, as columns of R^k
    E phi = max(i, j) / k                                for two random subspaces of R^k: the null to draw beside it

    sigma_1 ... sigma_p: cosines of the principal angles of two p-dimensional subspaces
    projection distance   sqrt(p - sum sigma^2),   so phi = 1 - distance^2 / p
    geodesic distance     sqrt(sum arccos^2 sigma)

The paper prints phi = (1/p)(1 - d^2) and calls the first distance the Grassmann distance; the formulas above are the
ones that agree with its definition of phi.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from d90.errors import InputError

__all__ = [
    "directions",
    "geodesic_distance",
    "projection_distance",
    "random_similarity",
    "similarity",
    "subspace_similarity",
]


def directions(matrix: Tensor, side: str = "right") -> Tensor:
    """The singular directions of a matrix as columns, the strongest first, in fp64.

    Args:
        matrix: (n, k).
        side: "right" gives (k, min(n, k)), the directions of the inputs, as of LoRA's A; "left" those of the outputs, B's.

    Raises:
        InputError: not a matrix, no such side, or entries that are not finite.
    """
    if matrix.dim() != 2 or side not in ("left", "right"):
        raise InputError(f"got shape {tuple(matrix.shape)} and side '{side}', expected a matrix and 'left' or 'right'")
    if not bool(torch.isfinite(matrix).all()):
        raise InputError("the matrix holds values that are not finite, expected a trained one; likely a diverged run")
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left if side == "left" else right.T


def subspace_similarity(a: Tensor, b: Tensor, side: str = "right") -> Tensor:
    """phi(i, j) for every i and j: 1 where the smaller subspace lies in the other, 0 where they are orthogonal.

    Args:
        a, b: (r_a, k) and (r_b, k) for the right side, as LoRA's A; (k, r_a) and (k, r_b) for the left, as its B.

    Returns:
        (r_a, r_b), phi(i, j) at [i - 1, j - 1].

    Raises:
        InputError: the two do not lie in the same space.
    """
    return similarity(directions(a, side), directions(b, side))


def similarity(u: Tensor, v: Tensor) -> Tensor:
    """phi(i, j) of orthonormal directions as columns, u (k, r_a) and v (k, r_b), as `directions` gives them.

    Raises:
        InputError: the two do not lie in the same space.
    """
    if u.shape[0] != v.shape[0]:
        raise InputError(f"got directions in R^{u.shape[0]} and R^{v.shape[0]}, expected one space")
    shared = (u.T @ v).square().cumsum(0).cumsum(1)
    rows, columns = torch.arange(1, shared.shape[0] + 1), torch.arange(1, shared.shape[1] + 1)
    return shared / torch.minimum(rows[:, None], columns[None, :])


def random_similarity(rows: int, columns: int, k: int) -> Tensor:
    """E phi(i, j) = max(i, j) / k of two random subspaces of R^k, (rows, columns)."""
    i, j = torch.arange(1, rows + 1), torch.arange(1, columns + 1)
    return torch.maximum(i[:, None], j[None, :]).double() / k


def projection_distance(a: Tensor, b: Tensor) -> float:
    """sqrt(p - sum sigma^2) of the subspaces that the columns of a (k, p) and b (k, p) span."""
    sigma = _cosines(a, b)
    return math.sqrt(max(0.0, len(sigma) - float(sigma.square().sum())))


def geodesic_distance(a: Tensor, b: Tensor) -> float:
    """sqrt(sum of the squared principal angles) of the spans of a (k, p) and b (k, p): the Grassmann manifold's own."""
    cosines = _cosines(a, b)
    # near 0 the arccosine loses half the digits; the sine is taken from what b has outside a's span
    q_a, q_b = torch.linalg.qr(a.double())[0], torch.linalg.qr(b.double())[0]
    sines = torch.linalg.svdvals(q_b - q_a @ (q_a.T @ q_b)).flip(0)
    return float(torch.atan2(sines, cosines).square().sum().sqrt())


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape or a.dim() != 2 or a.shape[1] > a.shape[0]:
        raise InputError(f"got {tuple(a.shape)} and {tuple(b.shape)}, expected two (k, p) of the same shape, p <= k")
    q_a, q_b = torch.linalg.qr(a.double())[0], torch.linalg.qr(b.double())[0]
    return torch.linalg.svdvals(q_a.T @ q_b).clamp(max=1.0)
