"""State that training moves outside of weights: carried by the tune, given back, switched by a Bank, or told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import d90.errors
from d90 import Subspace
from d90.errors import InputError
from d90.methods import Direct, restore, snapshot
from d90.subspace import file as tune_file
from d90.subspace.buffers import trained_state


class OwnScale(nn.Module):
    """A running scale of the module's own, which is part of its outputs."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("scale", torch.tensor(1.0), persistent=persistent)
        self.register_buffer("later", None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * out.detach().abs().mean()
            self.later = torch.full((2,), float(self.scale))
        return out / self.scale


class Ranges(nn.Module):
    """An observer: its range grows from nothing, as torch.ao's per-channel observers do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("top", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        if self.training:
            seen = out.detach().abs().amax(0)
            self.top = seen if self.top.numel() == 0 else torch.maximum(self.top, seen)
        return torch.minimum(out, self.top) if self.top.numel() else out


class Quantised(nn.Module):
    """torch's own observer and fake quantisation; it observes in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.fake = nn.Linear(6, 6), torch.ao.quantization.FakeQuantize()
        self.fake.disable_observer()

    def forward(self, x: Tensor) -> Tensor:
        self.fake.observer_enabled[0] = int(self.training)
        return self.fake(self.linear(x))  # type: ignore[no-any-return]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)),
    "spectral norm, old": lambda: nn.Sequential(spectral_norm(nn.Linear(6, 6))),  # type: ignore[no-untyped-call]
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6))),
    "a scale of its own": OwnScale,
    "a scale that is not persistent": lambda: OwnScale(persistent=False),
    "an observer": Ranges,
    "torch's observer": Quantised,
}


def made(name: str) -> nn.Module:
    torch.manual_seed(3)
    return MODELS[name]()


def state(model: nn.Module) -> dict[str, Tensor | None]:
    """Every parameter and buffer, those that are not persistent or None included."""
    held: dict[str, Tensor | None] = {name: p.detach().clone() for name, p in model.named_parameters()}
    for prefix, module in model.named_modules():
        held |= {f"{prefix}.{k}": None if b is None else b.clone() for k, b in vars(module)["_buffers"].items()}
    return held


def same(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> bool:
    def equal(x: Tensor | None, y: Tensor | None) -> bool:
        return x is y or (x is not None and y is not None and torch.equal(x, y))

    return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)


def train(space: Subspace, seed: int = 0) -> None:
    optimizer = torch.optim.Adam(space.parameters(), lr=0.02)
    space.model.train()
    draw = torch.Generator().manual_seed(seed)
    for _ in range(3):
        optimizer.zero_grad()
        (space.model(torch.randn(8, 6, generator=draw)) - 1).square().sum().backward()
        optimizer.step()
    space.model.eval()


X = torch.linspace(-2, 2, 24).view(4, 6)


@pytest.mark.parametrize("name", MODELS)
def test_a_tune_carries_what_training_moved_and_release_gives_it_back(name: str, tmp_path: Path) -> None:
    model = made(name)
    before = state(model)
    space = Subspace(model, 5)
    train(space)
    expected = model(X)
    space.save(tmp_path / "a.d90")
    there = made(name).eval()
    loaded = Subspace.load(tmp_path / "a.d90", there)
    torch.testing.assert_close(there(X), expected, rtol=1e-6, atol=1e-7)
    space.unmerge()
    assert same(state(model), before), "unmerged"
    space.save(tmp_path / "b.d90")
    assert (tmp_path / "b.d90").read_bytes() == (tmp_path / "a.d90").read_bytes()
    space.enable()
    torch.testing.assert_close(model(X), expected, rtol=0, atol=0)
    for one in (space, loaded):
        assert same(state(one.release()), before)


@pytest.mark.parametrize("name", MODELS)
def test_a_bank_switches_it(name: str, tmp_path: Path) -> None:
    expected = {}
    for seed, tune in enumerate(("a", "b")):
        space = Subspace(made(name), 5)
        train(space, seed)
        expected[tune] = space.model(X)
        space.save(tmp_path / f"{tune}.d90")
    assert not torch.equal(expected["a"], expected["b"])
    Subspace(made(name), 5).save(tmp_path / "zero.d90")
    model = made(name).eval()
    before, base = state(model), model(X)
    bank = d90.Bank(model, tmp_path)
    for tune in ("a", "b", "zero", "a", "zero"):
        out = bank.use(tune)(X)
        torch.testing.assert_close(out, base if tune == "zero" else expected[tune], rtol=1e-6, atol=1e-7)
    assert same(state(bank.release()), before)


@pytest.mark.parametrize("name", MODELS)
def test_weights_trained_as_they_are_carry_it_too(name: str, tmp_path: Path) -> None:
    model = made(name)
    before = state(model)
    direct = Direct(model)
    optimizer = torch.optim.SGD(direct.parameters(), lr=0.01)
    best = snapshot(direct)
    for _ in range(2):
        model.train()(torch.ones(4, 6)).sum().backward()
        optimizer.step()
    expected = model.eval()(X)
    direct.save(tmp_path / "a.d90")
    there = made(name).eval()
    Direct(there).restore(tmp_path / "a.d90")
    torch.testing.assert_close(there(X), expected, rtol=1e-6, atol=1e-7)
    restore(direct, best)
    assert same(state(model), before)
    assert same(state(direct.release()), before)


def test_a_cache_stays_out_of_the_tune_and_is_given_back(tmp_path: Path) -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)
            self.register_buffer("mask", torch.ones(1, 1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            if len(self.mask) < len(x):
                self.mask = torch.ones(len(x), 1)
            return self.linear(x) * self.mask[: len(x)]

    model = Cached()
    space = Subspace(model, 5)
    train(space)
    space.save(tmp_path / "a.d90")
    assert sorted(tune_file.read(tmp_path / "a.d90")[1]) == ["theta"]
    space.release()
    assert model.mask.shape == (1, 1)


def test_a_plain_attribute_that_training_moves_is_reported_by_name(tmp_path: Path) -> None:
    class Keeps(nn.Linear):
        level, seen = 1.0, torch.zeros(2)

        def forward(self, x: Tensor) -> Tensor:
            self.level = 0.9 * self.level
            return super().forward(x) * self.level

    model = nn.Sequential(Keeps(6, 6))
    model[0].level, model[0].unmoved = 1.0, 3  # type: ignore[assignment]
    space = Subspace(model, 5)
    train(space)
    with pytest.warns(UserWarning, match=r"training has changed \['0.level'\], which are plain attributes"):
        space.save(tmp_path / "a.d90")


@pytest.mark.parametrize("name", ["batch norm", "spectral norm, old", "spectral norm", "torch's observer"])
def test_a_peft_folder_has_no_place_for_it_and_says_so(name: str) -> None:
    import peft

    model = made(name)
    assert trained_state(model)
    with pytest.raises(d90.errors.UnsupportedModelError, match="is a buffer that training moves and a peft folder"):
        peft.get_peft_model(model, d90.SubspaceConfig(d=5))  # type: ignore[arg-type]


def test_buffers_of_another_model_are_refused(tmp_path: Path) -> None:
    space = Subspace(made("a scale of its own"), 5)
    train(space)
    space.save(tmp_path / "a.d90")
    header, tensors = tune_file.read(tmp_path / "a.d90")
    assert "buffer:scale" in tensors
    tensors["buffer:nowhere.scale"] = tensors.pop("buffer:scale")
    tune_file.write(tmp_path / "b.d90", header, tensors)
    model = made("a scale of its own")
    before = state(model)
    with pytest.raises(
        InputError, match=r"its buffers .* are not the .* this model needs \(see 'buffer:nowhere.scale'\)"
    ):
        Subspace.load(tmp_path / "b.d90", model)
    assert same(state(model), before)
