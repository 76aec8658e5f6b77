"""Similarity, distances, amplification, spectra: identities, extremes, the null, explicit twins."""

from __future__ import annotations

import math

import pytest
import torch

from d90.analysis.amplification import amplification, spectrum
from d90.analysis.similarity import (
    directions,
    geodesic_distance,
    projection_distance,
    random_similarity,
    subspace_similarity,
)
from d90.errors import InputError


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(k: int, p: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(drawn(k, p, seed=seed).double())[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_phi_is_its_definition_for_every_i_and_j(side: str) -> None:
    a, b = drawn(4, 30), drawn(7, 30, seed=1)
    if side == "left":
        a, b = a.T, b.T
    phi = subspace_similarity(a, b, side)
    assert phi.shape == (4, 7)
    u, v = directions(a, side), directions(b, side)
    for i in range(1, 5):
        for j in range(1, 8):
            expected = (u[:, :i].T @ v[:, :j]).norm() ** 2 / min(i, j)
            assert phi[i - 1, j - 1].item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_extremes_of_phi() -> None:
    a = drawn(5, 20)
    own = subspace_similarity(a, a)
    assert torch.allclose(own.diagonal(), torch.ones(5, dtype=torch.float64))
    assert own.max() <= 1 + 1e-12
    mixed = drawn(5, 5, seed=2) @ a  # the same span in another basis
    assert subspace_similarity(a, mixed)[4, 4].item() == pytest.approx(1)
    both = torch.linalg.qr(drawn(20, 10).double())[0].T
    assert subspace_similarity(both[:5], both[5:]).abs().max() < 1e-12


def test_random_subspaces_have_the_null_in_the_mean() -> None:
    k, found = 40, torch.zeros(6, 3, dtype=torch.float64)
    for seed in range(400):
        found += subspace_similarity(drawn(6, k, seed=2 * seed), drawn(3, k, seed=2 * seed + 1)) / 400
    assert torch.allclose(found, random_similarity(6, 3, k), rtol=0.1)
    assert random_similarity(6, 3, k)[5, 0] == 6 / 40


def test_distances_by_angles_that_are_known() -> None:
    basis, angles = torch.eye(8, dtype=torch.float64), torch.tensor([0.0, 1e-5, 0.3, 1.5], dtype=torch.float64)
    a = basis[:, :4]
    b = basis[:, :4] * angles.cos() + basis[:, 4:] * angles.sin()
    turned = b @ orthonormal(4, 4)  # another basis of the same span
    assert geodesic_distance(a, turned) == pytest.approx(float(angles.norm()), abs=1e-12)
    assert projection_distance(a, turned) == pytest.approx(float(angles.sin().norm()), abs=1e-12)
    phi = subspace_similarity(a.T, turned.T)[3, 3].item()
    assert phi == pytest.approx(1 - projection_distance(a, turned) ** 2 / 4)
    assert geodesic_distance(a, a) < 1e-12
    small = a + 0
    small[4, 0] = 1e-9
    assert geodesic_distance(a, small) == pytest.approx(1e-9, rel=1e-3)


def test_amplification_is_table_7s() -> None:
    n, k, r = 30, 20, 3
    weight = drawn(n, k).double()
    u, values, v = torch.linalg.svd(weight, full_matrices=False)
    raised = 5.0 * u[:, 10 : 10 + r] @ v[10 : 10 + r]  # raises directions that W has, but not its strongest
    found = amplification(weight, raised, r)
    assert found.delta == pytest.approx(5 * math.sqrt(r))
    assert found.own == pytest.approx(float(values[10 : 10 + r].norm()))
    assert found.top == pytest.approx(float(values[:r].norm()))
    assert found.factor == pytest.approx(found.delta / found.own)
    draws = [(orthonormal(n, r, s).T @ weight @ orthonormal(k, r, s + 999)).norm() ** 2 for s in range(600)]
    assert math.sqrt(sum(map(float, draws)) / 600) == pytest.approx(found.random, rel=0.05)
    assert amplification(torch.zeros(4, 4), drawn(4, 4), 2).factor == math.inf


def test_spectra() -> None:
    delta = orthonormal(12, 4) @ torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5]).double()) @ orthonormal(9, 4, 5).T
    found = spectrum(delta)
    assert found.values[:4] == pytest.approx((4, 2, 1, 0.5))
    assert found.values[4:] == pytest.approx((0,) * 5, abs=1e-12)
    assert found.stable_rank == pytest.approx(21.25 / 16)
    assert found.energy_rank == 2
    assert spectrum(torch.eye(6)).effective_rank == pytest.approx(6)
    assert spectrum(torch.eye(10)).energy_rank == 9
    assert spectrum(torch.zeros(3, 5)).energy_rank == 0


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="expected a matrix and"):
        directions(torch.zeros(3))
    with pytest.raises(InputError, match=r"not finite.*diverged"):
        directions(torch.full((2, 2), math.nan))
    with pytest.raises(InputError, match=r"R\^5 and R\^4, expected one space"):
        subspace_similarity(drawn(2, 5), drawn(2, 4))
    with pytest.raises(InputError, match="of the same shape, p <= k"):
        projection_distance(drawn(2, 3), drawn(2, 3))
    with pytest.raises(InputError, match=r"r=9, expected 1 \.\.\. 4"):
        amplification(drawn(4, 6), drawn(4, 6), 9)
    with pytest.raises(InputError, match="two equal matrices"):
        amplification(drawn(4, 6), drawn(6, 4), 2)
