"""A folder of tunes over one live model: each switch gives exactly the weights that loading gives, and theta_0 comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import d90
from d90 import Subspace
from d90.errors import InputError, UnsupportedModelError
from d90.subspace import file as tune_file
from tests.reference.models import Normed, loss_of, words, zoo
from tests.reference.states import hooks_of, same, tensors_in, values

TUNES: dict[str, dict[str, object]] = {
    "a": {"d": 12},
    "b": {"d": 12},
    "said": {"d": 30, "structure": "said", "projection": "onehot"},
    "seeded": {"d": 12, "seed": 5},
    "relative": {"d": 20, "scale": "relative", "projection": "dense"},
    "headed": {"d": 12, "head": "outside"},
    "headed2": {"d": 12, "head": "outside"},
    "half": {"d": 12, "dtype": "bf16"},
    "eighth": {"d": 12, "dtype": "int8"},
    "zero": {"d": 17},
}


def put(
    folder: Path, name: str, make: Callable[[], nn.Module] = zoo, d: int = 12, dtype: str = "fp32", **options: object
) -> None:
    """A tune of `make()`'s model, drawn by its name; "zero" is theta = 0."""
    space = Subspace(make(), d, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in space.parameters():
            if name != "zero":
                parameter.normal_(0, 0.01, generator=torch.Generator().manual_seed(sum(map(ord, name))))
        for _, buffer in d90.subspace.layout.running_statistics(space.model):
            buffer.copy_(buffer + 1 + len(name))
    space.save(folder / f"{name}.d90", dtype=dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tunes")
    for name, options in TUNES.items():
        put(made, name, **options)  # type: ignore[arg-type]
    return made


def loaded(folder: Path, name: str, make: Callable[[], nn.Module] = zoo) -> dict[str, Tensor]:
    return values(Subspace.load(folder / f"{name}.d90", make()).model)


def test_each_switch_is_a_load(folder: Path) -> None:
    """Every tune after every other: bit for bit what `Subspace.load` gives on a fresh model."""
    expected = {name: loaded(folder, name) for name in TUNES}
    assert not same(expected["a"], expected["b"])
    model = zoo()
    bank = d90.Bank(model, folder)
    for first in TUNES:
        for second in TUNES:
            for name in (first, second):
                assert bank.use(name) is model
                assert bank.active == name
                assert same(values(model), expected[name]), (first, second)
    bank.release()
    assert bank.active is None
    assert same(values(model), values(zoo()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types(tmp_path: Path, dtype: torch.dtype) -> None:
    def typed() -> nn.Module:
        return zoo().to(dtype)

    for name in ("a", "headed", "relative"):
        put(tmp_path, name, typed, **TUNES[name])  # type: ignore[arg-type]
    model = typed()
    bank = d90.Bank(model, tmp_path)
    for name in ("a", "headed", "relative", "a"):
        bank.use(name)
        assert same(values(model), loaded(tmp_path, name, typed))
    bank.release()
    assert same(values(model), values(typed()))


def normed() -> nn.Module:
    torch.manual_seed(3)
    return Normed()


def test_running_statistics_are_switched(tmp_path: Path) -> None:
    put(tmp_path, "a", normed)
    put(tmp_path, "long", normed, head="outside")
    model = normed()
    bank = d90.Bank(model, tmp_path)
    for name in ("a", "long", "a"):
        bank.use(name)
        assert same(values(model), loaded(tmp_path, name, normed))
    assert not torch.equal(model.body[1].running_mean, normed().body[1].running_mean)  # type: ignore[union-attr,operator,index]
    bank.release()
    assert same(values(model), values(normed()))


def test_the_model_is_a_plain_one(folder: Path) -> None:
    """No hooks, flags and gradients as they were, and one copy of theta_0 whatever the number of tunes."""
    model = zoo()
    loss_of(model, words()).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    kept = {name: grad.clone() for name, grad in grads.items() if grad is not None}
    places = {name: (id(p), p.data_ptr(), p.stride()) for name, p in model.named_parameters()}
    bank = d90.Bank(model, folder)
    for name in ("a", "said", "headed"):
        bank.use(name)
        assert "_d90_space" not in vars(model)
        assert not hooks_of(model)
        assert all(p.grad is grads[n] for n, p in model.named_parameters())
        assert {n: (id(p), p.data_ptr(), p.stride()) for n, p in model.named_parameters()} == places
        assert not model.embed.sparse
        own = {t.data_ptr() for p in model.parameters() for t in (p, p.grad) if t is not None}
        held = {tensor.data_ptr(): tensor.numel() for tensor in tensors_in(bank) if tensor.data_ptr() not in own}
        assert sum(held.values()) < 1.5 * sum(p.numel() for p in model.parameters()), "one copy of theta_0"
    assert all(torch.equal(grads[name], grad) for name, grad in kept.items())  # type: ignore[arg-type]
    bank.release()
    assert sum(tensor.numel() for tensor in tensors_in(bank)) < 100, "and none afterwards"
    loss_of(model, words()).backward()  # and it trains as before


def test_a_switch_is_one_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass for each switch, none that restores, and tunes of one kind share a Subspace."""
    from d90.subspace.weights import Weights

    model, calls = zoo(), []
    bank = d90.Bank(model, folder)
    bank.use("a")
    write = Weights.write
    monkeypatch.setattr(Weights, "write", lambda *a: (calls.append("write"), write(*a))[1])
    monkeypatch.setattr(Weights, "restore", lambda *a: calls.append("restore"))
    made = Subspace.__init__
    monkeypatch.setattr(Subspace, "__init__", lambda *a, **k: (calls.append("made"), made(*a, **k))[1])
    for name in ("b", "half", "eighth", "a"):
        bank.use(name)
    assert calls == ["write"] * 4, "tunes of one kind share a Subspace"
    bank.use("said")
    assert sorted(calls[4:]) == ["made", "write"]


def test_what_was_done_to_the_weights_is_gone(folder: Path) -> None:
    model = zoo()
    bank = d90.Bank(model, folder)
    bank.use("a")
    for name in ("a", "headed", "zero"):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(1)
        bank.use(name)
        assert same(values(model), loaded(folder, name))
    model.back.bias = nn.Parameter(model.back.bias.detach() + 1)  # another parameter in the old one's place
    for name in ("zero", "b"):
        bank.use(name)
        assert same(values(model), loaded(folder, name))
    bank.release()
    assert same(values(model), values(zoo()))


def test_a_tune_that_cannot_be_used_changes_nothing(folder: Path, tmp_path: Path) -> None:
    put(tmp_path, "good")
    put(tmp_path, "headed", head="outside")
    put(tmp_path, "stranger", lambda: zoo(seed=1))
    raw = (tmp_path / "good.d90").read_bytes()
    (tmp_path / "flipped.d90").write_bytes(raw[:-3] + bytes([raw[-3] ^ 4]) + raw[-2:])
    (tmp_path / "short.d90").write_bytes(raw[:-1])
    (tmp_path / "empty.d90").write_bytes(b"")

    def frozen() -> nn.Module:
        model = zoo()
        model.conv.requires_grad_(False)
        return model

    put(tmp_path, "other", frozen)
    header, tensors = tune_file.read(tmp_path / "headed.d90")
    tune_file.write(tmp_path / "headless.d90", header, {"theta": tensors["theta"]})
    tune_file.write(tmp_path / "direct.d90", tune_file.Header("direct"), {"gain": torch.tensor(1.0)})
    wrong = {
        "flipped": "checksum",
        "short": "truncated",
        "empty": "truncated",
        "stranger": "another base model",
        "other": "P is another one here.*requires_grad",
        "headless": "its tensors",
        "direct": "not the tune of a subspace",
        "none": "unknown tune 'none': expected one of direct, empty",
        "../good": "unknown tune",
    }
    model = zoo()
    loss_of(model, words()).backward()
    bank = d90.Bank(model, tmp_path)
    for before in (None, "good", "headed"):
        if before:
            bank.use(before)
        weights, grads = values(model), [p.grad for p in model.parameters()]
        for name, message in wrong.items():
            with pytest.raises(InputError, match=message):
                bank.use(name)
            assert same(values(model), weights)
            assert bank.active == before
            assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
            assert "_d90_space" not in vars(model)
    bank.use("good")
    assert same(values(model), loaded(tmp_path, "good"))
    bank.release()
    assert same(values(model), values(zoo()))


def test_models_it_cannot_switch(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder; expected one that holds"):
        d90.Bank(zoo(), tmp_path / "nowhere")
    with pytest.raises(UnsupportedModelError, match="meta device"):
        d90.Bank(nn.Linear(2, 2, device="meta"), folder)
    model = zoo()
    bank = d90.Bank(model, folder)
    space = Subspace(model, 12)
    with pytest.raises(InputError, match=r"enabled Subspace; expected none. Call merge\(\) or release\(\)"):
        bank.use("a")
    space.release()
    bank.use("a")
    model.conv.requires_grad_(False)
    with pytest.raises(InputError, match="other parameters are trainable"):
        bank.use("b")
    bank.release()
    assert same(values(model), values(zoo()))
    model.conv.requires_grad_(True)
    bank.use("a")
    model.to(torch.bfloat16)
    with pytest.raises(UnsupportedModelError, match=r"cast from torch.float32 to torch.bfloat16 under a Bank"):
        bank.use("b")


def test_a_thousand_are_listed_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the headers alone, unsound files with their errors."""
    raw = (folder / "said.d90").read_bytes()
    for i in range(1000):
        (tmp_path / f"t{i:04}.d90").write_bytes(raw)
    (tmp_path / "bad.d90").write_bytes(raw[:50])
    (tmp_path / "notes.txt").write_text("not a tune")
    (tmp_path / "folder.d90").mkdir()
    bank = d90.Bank(zoo(), tmp_path)

    def read(*args: object) -> None:
        raise AssertionError("read in full")

    monkeypatch.setattr(tune_file, "read", read)
    start = time.process_time()
    progress = bank.tunes()
    assert time.process_time() - start < 0.5
    assert list(progress) == bank.names() == ["bad", *(f"t{i:04}" for i in range(1000))]
    assert isinstance(progress["bad"], InputError)
    one = progress["t0500"]
    assert isinstance(one, tune_file.About)
    assert (one.header.structure, one.count, one.dtype, one.bytes) == ("said", 30, "fp32", len(raw))
    assert repr(bank) == f"Bank('{tmp_path}', 1001 tunes, active=None)"
