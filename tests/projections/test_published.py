"""Ours beside Fastfood as published: the same law, and two faults of the published code that ours must not have."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from d90.projections import build
from tests.reference.fastfood_published import Released, Stacked

D_, D = 24, 512
SEEDS = 160
_Map = Callable[[int, Tensor], Tensor]


def ours(entries: str) -> _Map:
    return lambda seed, x: build(f"fastfood:{entries}", D_, D, seed).forward(x.float()).double()


FORMS: dict[str, _Map] = {
    "sign": ours("sign"),
    "gaussian": ours("gaussian"),
    "stacked": lambda seed, x: Stacked(D_, D, seed).forward(x),
    "released": lambda seed, x: Released(D_, D, seed).forward(x),
}


def statistics(form: str) -> dict[str, Tensor]:
    """For each seed: |Px|^2 of a unit x, the fourth moment of Px's entries, |P e_0|^2, and <P e_0, P e_1>^2."""
    x = torch.linspace(-1, 2, D_, dtype=torch.float64)
    x = x / x.norm()
    basis = torch.eye(D_, dtype=torch.float64)
    found: dict[str, list[float]] = {"square": [], "fourth": [], "column": [], "between": []}
    for seed in range(SEEDS):
        y, first, second = (FORMS[form](seed, v) for v in (x, basis[0], basis[1]))
        found["square"].append(float((y**2).sum()))
        found["fourth"].append(float((y**4).mean() * D**2))
        found["column"].append(float((first**2).sum()))
        found["between"].append(float(first @ second) ** 2)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Tensor]]:
    return {form: statistics(form) for form in FORMS}


def error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("form", FORMS)
def test_length_is_kept_in_the_mean(form: str, measured: dict[str, dict[str, Tensor]]) -> None:
    for name in ("square", "column"):
        values = measured[form][name]
        assert abs(values.mean() - 1) < 5 * error(values) + 1e-5
        assert error(values) < 0.02  # so that a wrong factor of 10 % would show


@pytest.mark.parametrize("form", ["stacked", "released"])
def test_the_published_forms_have_our_moments(form: str, measured: dict[str, dict[str, Tensor]]) -> None:
    """Two-sample comparison at five standard errors; fourth moment of Gaussian entries is 3."""
    for name in ("square", "fourth", "column", "between"):
        a, b = measured["gaussian"][name], measured[form][name]
        assert abs(a.mean() - b.mean()) < 5 * math.hypot(error(a), error(b)), name
    fourth = measured["gaussian"]["fourth"]
    assert abs(fourth.mean() - 3) < 5 * error(fourth)


def test_signs_scatter_less_than_gaussians(measured: dict[str, dict[str, Tensor]]) -> None:
    assert measured["sign"]["square"].std() < 0.1 * measured["gaussian"]["square"].std()
    assert measured["sign"]["between"].mean() < 0.1 * measured["gaussian"]["between"].mean()


def test_the_released_backward_is_not_the_adjoint() -> None:
    """Each tensor's gradient is divided by its own L, so a short one outweighs a long one. Ours passes."""
    for size in (100, 4000):
        released, p = Released(16, size, 0), build("fastfood:gaussian", 16, size)
        x, y = torch.randn(16).double(), torch.randn(size).double()
        assert math.isclose(released.forward(x) @ y, x @ released.adjoint(y), rel_tol=1e-9)
        assert math.isclose(released.forward(x) @ y, released.L * (x @ released.backward(y)), rel_tol=1e-9)
        left, right = p.forward(x.float()).double() @ y, x @ p.adjoint(y.float()).double()
        assert abs(left - right) < 2e-6 * y.norm() * x.norm()


def captured(adjoint: Callable[[int, Tensor], Tensor], d: int, size: int) -> Tensor:
    """|P^T g|^2 D / (d |g|^2) of a constant gradient over 64 seeds; 1 is what a random subspace captures."""
    g = torch.ones(size)
    return torch.stack([(adjoint(s, g).double() ** 2).sum() / d for s in range(64)])


def test_without_an_outer_sign_a_smooth_gradient_falls_on_one_coordinate() -> None:
    """H 1 = m e_0: the energy that is caught is one Gaussian's square, unless random signs stand before H."""
    d, size = 256, 4096
    bare = captured(lambda s, g: Released(d, size, s).adjoint(g), d, size)
    signed = captured(lambda s, g: Released(d, size, s, outer_sign=True).adjoint(g), d, size)
    assert bare.std() > 0.7
    assert signed.std() < 0.2
    assert abs(signed.mean() - 1) < 0.1
    for entries in ENTRIES:
        values = captured(lambda s, g, e=entries: build(f"fastfood:{e}", d, size, s).adjoint(g), d, size)
        assert abs(values.mean() - 1) < 0.1
        assert values.std() < 0.2


ENTRIES = ("sign", "gaussian")


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize(("d", "sizes"), [(200, (3000, 40)), (1500, (5000, 700))])
def test_constant_gradients_are_caught_evenly(entries: str, d: int, sizes: tuple[int, ...]) -> None:
    total = sum(sizes)
    values = captured(lambda s, g: build(f"fastfood:{entries}", d, sizes, s).adjoint(g), d, total)
    assert abs(values.mean() - 1) < 0.1
    one = build(f"fastfood:{entries}", d, sizes, 0).adjoint(torch.ones(total)).double() ** 2
    assert one.max() / one.sum() < 0.2  # no coordinate takes all


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize(("d", "sizes"), [(200, (3000, 40)), (1500, (5000, 700))])
def test_smooth_gradients_are_caught_evenly(entries: str, d: int, sizes: tuple[int, ...]) -> None:
    """A ramp, and one slow wave over all weights: 1 +- 0.1 of what a random subspace captures, in the mean over 64 seeds."""
    place = torch.linspace(0, 1, sum(sizes))
    for g in (place - 0.2, torch.cos(2 * math.pi * place)):
        g = g * (len(g) ** 0.5 / g.norm())
        adjoints = [build(f"fastfood:{entries}", d, sizes, seed).adjoint(g).double() for seed in range(64)]
        values = torch.stack([(a**2).sum() / d for a in adjoints])
        assert abs(values.mean() - 1) < 0.1
        assert values.std() < 0.3


def test_signs_on_a_large_model_turn_and_do_not_stretch() -> None:
    """P^T P = I for sign entries, but for the tail of the last block: its eigenvalues at d = 256, D = 1,000,003."""
    d, projection = 256, build("fastfood:sign", 256, [400_000, 600_000, 3], 5)
    gram = torch.stack([projection.adjoint(projection.forward(column)) for column in torch.eye(d)])
    assert torch.allclose(gram, gram.T, atol=1e-5)
    values = torch.linalg.eigvalsh(gram.double())
    assert values.max() - 1 < 0.01
    assert 1 - values.min() < 0.01
