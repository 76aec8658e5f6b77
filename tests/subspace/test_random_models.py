"""100 random models against a dense twin: same loss, same gradient, same weights, and the model back as it was."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from d90 import Subspace
from d90.subspace.layout import step_factor
from d90.subspace.options import SCALES
from d90.subspace.subspace import LAMBDA_STEP
from tests.reference.random_models import LENGTH, PARTS, WIDTH, random_model
from tests.reference.space import SlowSpace

PROJECTIONS = (
    "fastfood:sign",
    "onehot:sign",
    "onehot:one",
    "sparse:sign",
    "dense:sign",
)  # the cheap ones in plain Python


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 0.3).square().sum()


def near(a: Tensor, b: Tensor, rtol: float) -> bool:
    return bool((a.double() - b.double()).norm() <= rtol * b.double().norm() + 1e-7)


@pytest.mark.parametrize("group", [0, 1, *(pytest.param(group, marks=pytest.mark.slow) for group in (2, 3, 4))])
def test_a_hundred_random_models_equal_their_dense_twins(group: int) -> None:
    for seed in range(20 * group, 20 * group + 20):
        check(seed)


def check(seed: int) -> None:
    draw = random.Random(1000 + seed)
    model = random_model(seed)
    structure, projection, scale = draw.choice(("did", "said")), draw.choice(PROJECTIONS), draw.choice(SCALES)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    layers = names if structure == "said" else []
    d = len(layers) + draw.randint(1, 12)
    x = torch.randn(5, LENGTH, WIDTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    twin = SlowSpace(
        random_model(seed), names, d, projection, scale, layers, seed=seed, rule=(step_factor, LAMBDA_STEP)
    )
    twin.model.double()
    twin.base, twin.P = [base.double() for base in twin.base], twin.P.double()
    theta = (0.02 * torch.randn(d)).double().requires_grad_()
    expected = twin.loss(theta, loss_of, x.double())
    (slow,) = torch.autograd.grad(expected, theta)

    space = Subspace(model, d, structure=structure, projection=projection, scale=scale, layer="tensor", seed=seed)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.0)
    with torch.no_grad():
        space.theta.copy_(theta)
    for _ in range(2):  # a second pass, over weights that were written before
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
    what = f"seed {seed}: {structure}, {projection}, {scale}, {list(PARTS)[seed % len(PARTS)]}"
    assert abs(loss.item() - expected.item()) <= 1e-4 * abs(expected.item()) + 1e-6, what
    assert space.theta.grad is not None
    assert near(space.theta.grad, slow, 2e-4), what
    for name, weight in twin.weights(theta.detach()).items():
        assert near(dict(model.named_parameters())[name].detach(), weight, 1e-5), f"{what}: {name}"
    space.release()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), what
    assert all(p.grad is None for p in model.parameters()), what


def test_every_kind_of_part_is_first_in_some_model() -> None:
    assert len(PARTS) == 20
    first = [next(iter(random_model(seed).part)) for seed in range(20)]  # type: ignore[arg-type]
    assert [type(part).__name__ for part in first] == [type(make()).__name__ for make in PARTS.values()]
