"""keep_theta0=False: no second copy of the model, the same training, and plain words about what cannot be given back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from d90 import Subspace
from d90.errors import InputError, UnsupportedModelError
from d90.subspace import layout
from tests.reference.models import loss_of, words, zoo
from tests.reference.states import tensors_in
from tests.reference.table import SPECS, suited


def moved(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double() for name, p in model.named_parameters() if p.requires_grad}


def drift(a: nn.Module, b: nn.Module) -> float:
    """Root of the mean square difference of the weights, over the root mean square of them."""
    pairs = list(zip(moved(a).values(), moved(b).values(), strict=True))
    difference = sum((x - y).square().sum().item() for x, y in pairs)
    return float((difference / sum(y.square().sum().item() for _, y in pairs)) ** 0.5)


def train(space: Subspace, steps: int, lr: float = 5e-3) -> float:
    optimizer = space.attach(torch.optim.Adam(space.parameters(), lr=lr))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(space.model, words())
        loss.backward()
        optimizer.step()
    space.flush()
    return loss.item()


@pytest.mark.parametrize("structure", ["did", "said"])
@pytest.mark.parametrize("projection", SPECS)
def test_the_weights_stay_theta_0_plus_delta(structure: str, projection: str) -> None:
    """After 100 steps of Adam the weights are those written in one go from theta_0, tied and non-contiguous ones included."""
    model = zoo()
    fresh = copy.deepcopy(model)
    before = moved(fresh)
    m = len(set(layout.layer_of(fresh, list(before), "block")[0])) if structure == "said" else 0
    d = m + suited(projection, 24 - m)
    space = Subspace(model, d, structure=structure, projection=projection, seed=3, keep_theta0=False)
    first = train(space, 1)
    assert train(space, 100) < first
    twin = Subspace(fresh, d, structure=structure, projection=projection, seed=3)
    twin.theta.data.copy_(space.theta.data)
    twin.flush()
    assert drift(model, fresh) < 1e-6
    assert any(not torch.equal(before[name], weight) for name, weight in moved(model).items())


@pytest.mark.slow
def test_the_drift_of_two_thousand_steps_is_rounding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    fresh = copy.deepcopy(model)
    space = Subspace(model, 300, structure="said", keep_theta0=False)
    optimizer = torch.optim.Adam(space.parameters(), lr=5e-3)
    x, y = torch.randn(64, 512), torch.randint(10, (64,))
    for _ in range(2000):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    twin = Subspace(fresh, 300, structure="said")
    twin.theta.data.copy_(space.theta.data)
    space.flush()
    twin.flush()
    assert drift(model, fresh) < 2e-6


def test_nothing_of_size_D_is_held() -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 40))
    pointers = {p.data_ptr() for p in model.parameters()}
    space = Subspace(model, 10, keep_theta0=False)
    model(torch.randn(3, 300)).sum().backward()
    space.theta.data.add_(0.01)
    model(torch.randn(3, 300))
    assert {p.data_ptr() for p in model.parameters()} == pointers, "written where they lie"
    held = [tensor for tensor in tensors_in(space) if tensor.data_ptr() not in pointers]
    assert sum(tensor.numel() for tensor in held) < 200


def test_what_is_gone_is_not_given_back() -> None:
    model = zoo()
    before = copy.deepcopy(model)
    space = Subspace(model, 24, keep_theta0=False)
    space.release()
    assert drift(model, before) == 0, "nothing had moved"

    space = Subspace(model, 24, keep_theta0=False)
    train(space, 3)
    for give_back in (space.release, space.unmerge):
        with pytest.raises(InputError, match=r"Load the base model again"):
            give_back()
    assert train(space, 3) > 0, "and the space goes on"
    space.theta.data.zero_()
    space.merge()
    assert drift(model, before) < 1e-6


def test_half_precision_keeps_theta_0() -> None:
    model = zoo().to(torch.bfloat16)
    with pytest.raises(InputError, match=r"keep_theta0=False.*bfloat16, expected fp32"):
        Subspace(model, 24, keep_theta0=False)
    Subspace(model, 24).release()  # and left no trace


def test_a_tune_is_saved_and_loaded_without_theta_0(tmp_path: Path) -> None:
    model = zoo()
    base, other = copy.deepcopy(model), copy.deepcopy(model)
    space = Subspace(model, 24, structure="said", keep_theta0=False)
    train(space, 5)
    space.save(tmp_path / "t.d90")
    again = Subspace.load(tmp_path / "t.d90", base, keep_theta0=False)
    kept = Subspace.load(tmp_path / "t.d90", other)
    assert torch.equal(again.theta, space.theta)
    assert kept.base() == space.base() == again.base()
    assert drift(base, other) < 1e-7
    assert drift(model, other) < 1e-6


# --- padding, wrappers, resizing -----------------------------------------------------------------------------------------


class Padded(nn.Module):
    """Embedding, mean, head; `tied`: the head's matrix is the embedding's."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 6, padding_idx=2)
        self.head = nn.Linear(6, 9)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids).sum(dim=1))


@pytest.mark.parametrize("projection", ["fastfood", "dense", "sparse", "onehot"])
@pytest.mark.parametrize("keep", [True, False], ids=["theta_0", "without"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "alone"])
def test_a_padding_row_does_not_move(projection: str, keep: bool, tied: bool) -> None:
    model = Padded(tied)
    before = model.embedding.weight.detach().clone()
    space = Subspace(model, 8, projection=projection, keep_theta0=keep)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.1)
    ids = torch.tensor([[1, 3, 2], [4, 5, 8]])
    for _ in range(3):
        torch.nn.functional.cross_entropy(model(ids), torch.tensor([1, 2])).backward()
        optimizer.step()
        optimizer.zero_grad()
    longer = torch.cat((ids, torch.full((2, 4), 2)), dim=1)
    if tied:
        assert torch.equal(model.embedding.weight[2], before[2])
    else:
        torch.testing.assert_close(model(longer), model(ids), rtol=0, atol=1e-6)  # padding adds nothing
        assert not model.embedding.weight[2].any()
    moved = (model.embedding.weight - before).norm(dim=1) > 1e-3
    assert moved.tolist() == [i != 2 for i in range(9)]


@pytest.mark.parametrize("sparse", [True, False])
def test_the_gradient_of_theta_is_that_of_the_weights_that_move(sparse: bool) -> None:
    """By finite differences: a tied padding row has a gradient, which must not reach theta."""
    model = Padded(tied=not sparse).double()
    space = Subspace(model, 5, projection="dense")
    ids, labels = torch.tensor([[1, 3, 2], [4, 5, 2]]), torch.tensor([2, 7])

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(ids), labels)

    with torch.no_grad():
        space.theta.normal_(std=0.1)
    loss().backward()
    gradient = space.theta.grad.clone()
    for i in range(5):
        values = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                space.theta[i] += step
                values.append(loss().item())
                space.theta[i] -= step
        assert gradient[i].item() == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-3, abs=1e-4)


def test_a_compiled_model_is_unwrapped() -> None:
    plain, model = Padded(tied=False), Padded(tied=False)
    compiled = torch.compile(model, backend="eager")
    ids = torch.tensor([[1, 3], [4, 5]])
    compiled(ids)  # compiled before there were hooks
    space, twin = Subspace(compiled, 6), Subspace(plain, 6)
    assert space.model is model
    assert space.header() == twin.header()
    with torch.no_grad():
        space.theta.fill_(0.3)
        twin.theta.fill_(0.3)
    torch.testing.assert_close(compiled(ids), plain(ids))
    compiled(ids).sum().backward()
    plain(ids).sum().backward()
    torch.testing.assert_close(space.theta.grad, twin.theta.grad)


def test_a_tune_of_a_compiled_model_opens_on_a_plain_one(tmp_path: Path) -> None:
    space = Subspace(torch.compile(Padded(tied=False), backend="eager"), 6)
    with torch.no_grad():
        space.theta.fill_(0.3)
    space.save(tmp_path / "task.d90")
    opened = Subspace.load(tmp_path / "task.d90", torch.compile(Padded(tied=False), backend="eager"))
    plain = Subspace.load(tmp_path / "task.d90", Padded(tied=False))
    ids = torch.tensor([[1, 3], [4, 5]])
    torch.testing.assert_close(opened.model(ids), plain.model(ids))


@pytest.mark.parametrize("rows", [12, 5])
def test_an_embedding_resized_in_place_is_found_by_its_shape(rows: int) -> None:
    model = Padded(tied=False)
    Subspace(model, 6)
    model.embedding.weight.data = torch.zeros(rows, 6)
    with pytest.raises(UnsupportedModelError, match=rf"'embedding.weight' was resized from \(9, 6\) to \({rows}, 6\)"):
        model(torch.tensor([[1, 3]]))


def test_a_module_that_is_exchanged_for_one_with_the_same_weights_goes_on() -> None:
    """As BigBird does with its attention, by the length of the texts."""
    model = Padded(tied=False)
    space = Subspace(model, 6)
    other = nn.Linear(6, 9)
    other.weight, other.bias = model.head.weight, model.head.bias
    model.head = other
    before = model(torch.tensor([[1, 3]])).detach()
    with torch.no_grad():
        space.theta.fill_(0.3)
    assert not torch.allclose(model(torch.tensor([[1, 3]])), before)
    model.head = nn.Linear(6, 9)
    with pytest.raises(UnsupportedModelError, match="was replaced under a Subspace"):
        model(torch.tensor([[1, 3]]))
