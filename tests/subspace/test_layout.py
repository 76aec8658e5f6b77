"""What lies under a subspace: layers, head, scale, fingerprint."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from d90 import Subspace
from d90.errors import InputError
from d90.projections import build
from d90.subspace import layout
from d90.subspace.options import SCALES
from tests.reference.models import ZOO_LAYERS, Normed, zoo
from tests.reference.space import sigma


def names_of(model: nn.Module) -> list[str]:
    return list(layout.trainable(model))


def test_trainable_is_one_per_identity_in_order() -> None:
    model = zoo()
    found = layout.trainable(model)
    assert list(found) == [name for name, p in model.named_parameters() if p.requires_grad]
    assert "head.weight" not in found  # tied: embed.weight comes first
    assert not any(name.startswith("frozen") for name in found)
    assert len({id(p) for p in found.values()}) == len(found)


@pytest.mark.parametrize(("layer", "place"), [("block", 0), ("module", 1)])
def test_layers_of_a_model_with_blocks(layer: str, place: int) -> None:
    names = names_of(zoo())
    layers, definition = layout.layer_of(zoo(), names, layer)
    assert dict(zip(names, layers, strict=True)) == {name: ZOO_LAYERS[name][place] for name in names}
    assert definition == ("block (members of blocks)" if layer == "block" else "module")


def test_a_tensor_is_its_own_layer() -> None:
    names = names_of(zoo())
    assert layout.layer_of(zoo(), names, "tensor") == (names, "tensor")


def test_without_blocks_a_block_is_a_module_and_the_definition_says_so() -> None:
    model = Normed()
    names = names_of(model)
    assert layout.layer_of(model, names, "block")[0] == layout.layer_of(model, names, "module")[0]
    assert "no ModuleList" in layout.layer_of(model, names, "block")[1]
    frozen_blocks = zoo()
    frozen_blocks.blocks.requires_grad_(False)
    assert "no ModuleList" in layout.layer_of(frozen_blocks, names_of(frozen_blocks), "block")[1]


def test_the_longest_list_is_the_blocks() -> None:
    model = nn.Module()
    model.short = nn.ModuleList([nn.Linear(2, 2)])
    model.long = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    layers, definition = layout.layer_of(model, names_of(model), "block")
    assert definition == "block (members of long)"
    assert layers == ["(before)"] * 2 + ["long.0"] * 2 + ["long.1"] * 2 + ["long.2"] * 2


def test_unknown_layer() -> None:
    with pytest.raises(InputError, match=r"unknown layer 'blocks'.*Did you mean 'block'"):
        layout.layer_of(zoo(), ["gain"], "blocks")


def test_heads() -> None:
    model = Normed()
    assert layout.head_tensors(model, names_of(model)) == ["classifier.weight", "classifier.bias"]
    last = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2), nn.ReLU())
    assert layout.head_tensors(last, names_of(last)) == ["1.weight", "1.bias"]
    assert layout.head_tensors(zoo(), names_of(zoo())) == ["head.bias"]
    with pytest.raises(InputError, match="no child modules"):
        layout.head_tensors(nn.Linear(2, 2), ["weight"])


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(40, 30) * 0.3,
        "bias": torch.randn(30),
        "two numbers": torch.randn(2),
        "zero head": torch.zeros(3, 30),
        "zero bias": torch.zeros(30),
        "scalar": torch.tensor(2.7),
        "empty": torch.zeros(0, 4),
        "half": torch.randn(50, 8).to(torch.bfloat16),
    }


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", tensors())
def test_scale_is_what_the_docstring_says(scale: str, name: str) -> None:
    tensor = tensors()[name]
    assert math.isclose(layout.tensor_scale(scale, tensor, 5000, 25), sigma(scale, tensor, 5000, 25), rel_tol=1e-12)


def test_tensor_scale_gives_unit_columns_inside_and_rows_of_at_most_one() -> None:
    d, sizes = 20, (640, 1280, 64, 3)
    parts = [torch.zeros(n) for n in sizes]
    scales = [layout.tensor_scale("tensor", part, sum(sizes), d) for part in parts]
    columns, rows = torch.zeros(len(sizes)), torch.zeros(len(sizes))
    for seed in range(20):
        p = build("dense:gaussian", d, sizes, seed).dense()
        for t, (part, s) in enumerate(zip(p.split(sizes), scales, strict=True)):
            columns[t] += (s * part).square().sum(0).mean() / 20
            rows[t] += (s * part).square().sum(1).mean() / 20
    for t, n in enumerate(sizes):
        spread = 5 * math.sqrt(2 / (n * d * 20))
        assert abs(columns[t] / min(1, n / d) - 1) < spread
        assert abs(rows[t] / min(1, d / n) - 1) < spread


def test_relative_scale_moves_every_tensor_by_the_same_share_of_itself() -> None:
    """Within sqrt 2 either way, for the rounding to a power of two; and a rescaled tensor by its own factor exactly."""
    tensor = torch.randn(40, 40)
    for factor in (2.0**-7, 1.0, 2.0**11):
        scaled = tensor * factor
        share = layout.tensor_scale("relative", scaled, 9000, 10) / layout.tensor_scale("tensor", scaled, 9000, 10)
        assert 1 / math.sqrt(2) <= share / scaled.norm().item() <= math.sqrt(2)
        assert math.log2(share) == round(math.log2(share))
    for dtype in (torch.bfloat16, torch.float16):  # a model's type does not change it
        assert layout.tensor_scale("relative", tensor.to(dtype), 9000, 10) == layout.tensor_scale(
            "relative", tensor, 9000, 10
        )


def test_unknown_scale() -> None:
    with pytest.raises(InputError, match=r"unknown scale 'relativ'.*Did you mean 'relative'"):
        layout.tensor_scale("relativ", torch.zeros(3), 10, 2)


def fingerprint(model: nn.Module) -> str:
    return layout.fingerprint(model.named_parameters())


def test_fingerprint_sees_values_names_and_shapes() -> None:
    model = zoo()
    seen = {fingerprint(model), fingerprint(zoo(seed=1))}
    for change in range(3):
        other = copy.deepcopy(model)
        with torch.no_grad():
            if change == 0:
                other.frozen.weight[3, 3] *= 1.02  # frozen weights count too
            elif change == 1:
                other.gain.neg_()
            else:
                other.mix.copy_(other.mix.flip(0))
        seen.add(fingerprint(other))
    assert len(seen) == 5
    pair = torch.arange(6.0)
    assert layout.fingerprint([("a", pair.reshape(2, 3))]) != layout.fingerprint([("a", pair.reshape(3, 2))])
    assert layout.fingerprint([("a", pair)]) != layout.fingerprint([("b", pair)])
    assert layout.fingerprint([("a", pair[:3]), ("b", pair[3:])]) != layout.fingerprint([("a", pair)])


def test_fingerprint_does_not_see_type_layout_or_flags() -> None:
    model = zoo().to(torch.bfloat16)
    expected = fingerprint(model)
    assert len(expected) == 16
    assert fingerprint(copy.deepcopy(model).float()) == expected
    model.requires_grad_(False)
    assert fingerprint(model) == expected
    matrix = torch.randn(4, 5)
    assert layout.fingerprint([("a", matrix.t().contiguous().t())]) == layout.fingerprint([("a", matrix)])


def test_running_statistics() -> None:
    assert [name for name, _ in layout.running_statistics(Normed())] == [
        "body.1.running_mean",
        "body.1.running_var",
        "body.1.num_batches_tracked",
    ]
    assert next(name for name, _ in layout.running_statistics(nn.BatchNorm1d(2))) == "running_mean"
    assert not layout.running_statistics(nn.BatchNorm1d(2, track_running_stats=False))
    assert not layout.running_statistics(zoo())


def test_lone_embeddings() -> None:
    """Those whose gradients may be sparse: plain, moved, and in one place only."""
    lone, tied, frozen = nn.Embedding(9, 4), nn.Embedding(9, 4), nn.Embedding(9, 4).requires_grad_(False)
    out = nn.Linear(4, 9)
    out.weight = tied.weight
    options: list[dict[str, float]] = [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}]
    others = [nn.Embedding(9, 4, **option) for option in options]  # type: ignore[arg-type]
    model = nn.ModuleList([lone, tied, out, frozen, *others, nn.EmbeddingBag(9, 4)])
    assert layout.lone_embeddings(model, list(layout.trainable(model).values())) == [lone]
    assert not layout.lone_embeddings(model, [out.weight])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("d", [3, 40])
def test_every_scale_moves_all_weights_together_as_far(scale: str, d: int) -> None:
    """The mean of |Delta|^2 over theta, from P itself."""
    moved = {}
    for name in ("tensor", scale):
        space = Subspace(zoo(), d, projection="dense", scale=name, seed=5)
        p, starts = space.projection.dense().double(), (*space.projection.starts, space.D)
        parts = [
            (unit * p[low:high]).square().sum()
            for unit, low, high in zip(space.units, starts[:-1], starts[1:], strict=True)
        ]
        moved[name] = float(sum(parts))
        space.release()
    assert math.isclose(moved[scale], moved["tensor"], rel_tol=0.2)  # dense columns are units in expectation alone


def test_step_rule_1_is_as_it_was() -> None:
    """At scale tensor the rules agree; at the others rule 1 has no balance, and a file says which it was."""
    for scale in SCALES:
        first, second = (Subspace(zoo(), 20, scale=scale, step_rule=rule) for rule in (1, 2))
        tensors = list(layout.trainable(zoo()).values())
        sizes = [tensor.numel() for tensor in tensors]
        k = layout.balance(scale, sizes, [layout.tensor_scale(scale, t, sum(sizes), 20) for t in tensors], 20)
        assert [a * k for a in first.units] == pytest.approx(second.units, rel=1e-12)
        assert (k == 1) == (scale == "tensor")
        assert (first.header().step_rule, second.header().step_rule) == (1, 1 if scale == "tensor" else 2)
    with pytest.raises(InputError, match="step_rule"):
        Subspace(zoo(), 20, step_rule=3)


@pytest.mark.parametrize("rule", [1, 2])
def test_a_file_is_loaded_under_its_own_step_rule(rule: int, tmp_path: Path) -> None:
    space = Subspace(zoo(), 20, scale="relative", step_rule=rule)
    with torch.no_grad():
        space.theta.normal_(0, 0.01)
    space.flush()
    space.save(tmp_path / "a.d90")
    there = Subspace.load(tmp_path / "a.d90", zoo())
    assert there.options.step_rule == rule
    for here, again in zip(space.model.parameters(), there.model.parameters(), strict=True):
        assert torch.equal(here, again)
