"""HiWi: its equation on both kinds of layer, the paper's storage, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from d90.errors import InputError
from d90.methods import apply, counts, load, parse
from d90.models.fresh import draw
from d90.subspace import file as tune_file
from tests.methods.table import bert, gpt2
from tests.reference.sizes import roberta


@pytest.mark.parametrize("on", ["bias", "weight"])
@pytest.mark.parametrize("f", ["relu", "gelu", "tanh", "none"])
def test_the_weight_is_the_equation(on: str, f: str) -> None:
    for make, name in ((bert, "bert.encoder.layer.1.output.dense"), (gpt2, "transformer.h.1.mlp.c_proj")):
        model = make()
        theta = model.get_parameter(f"{name}.{on}").detach().clone()
        applied_method = apply(parse(f"hiwi:on={on},r=3,nonlinearity={f}"), model, 11)
        module = model.get_submodule(name)
        adapter = module.parametrizations[on][0]  # type: ignore[index,union-attr]
        down = draw(f"hiwi.down:{name}.{on}", torch.Size((theta.shape[-1], 3)), 11) / theta.shape[-1] ** 0.5
        assert torch.equal(adapter.down, down)
        assert torch.equal(getattr(module, on), theta), "W_up starts at 0"
        with torch.no_grad():
            adapter.up.normal_()
        g = {"relu": functional.relu, "gelu": functional.gelu, "tanh": torch.tanh, "none": lambda x: x}[f]
        expected = theta + g(theta @ down) @ adapter.up
        torch.testing.assert_close(getattr(module, on), expected)
        applied_method.merge()
        torch.testing.assert_close(module.get_parameter(on), nn.Parameter(expected.detach()))


def test_storage_is_the_biases_whatever_is_trained() -> None:
    for r in (4, 64):
        network = roberta("large")
        spec = parse(f"hiwi:on=bias,r={r}")
        got = counts(spec, spec.method.apply(network))
        assert got.stored - got.head == 122_880  # Liao et al. 2023: 0.0346 % of RoBERTa-large
        assert got.moved - got.head == 2 * r * 122_880
        assert got.added == 0


def test_a_file_is_plain_weights_and_needs_no_hiwi(tmp_path: Path) -> None:
    model = bert()
    spec = parse("hiwi:r=4")
    applied_method = apply(spec, model, 2)
    with torch.no_grad():
        for parameter in applied_method.trained.parameters():
            parameter.add_(0.1)
    applied_method.save(tmp_path / "t.d90")
    names = set(tune_file.read(tmp_path / "t.d90")[1])
    assert names == {
        f"bert.encoder.layer.{i}.{part}.dense.bias" for i in (0, 1) for part in ("intermediate", "output")
    } | {
        "classifier.weight",
        "classifier.bias",
    }
    fresh = bert()
    load(spec, tmp_path / "t.d90", fresh, 99)
    assert not hasattr(fresh.bert.encoder.layer[0].output.dense, "parametrizations")
    for name in names:
        assert torch.equal(tune_file.read(tmp_path / "t.d90")[1][name], fresh.get_parameter(name))
    other = bert()
    with torch.no_grad():
        other.bert.pooler.dense.weight.add_(1)
    with pytest.raises(InputError, match="trained on another base model"):
        load(spec, tmp_path / "t.d90", other)


def test_biases_that_are_all_zero_are_refused() -> None:
    model = bert()
    for layer in model.bert.encoder.layer:
        nn.init.zeros_(layer.intermediate.dense.bias)
    some = parse("hiwi").method.apply(model)
    assert sum("bias.0.down" in name for name, _ in model.named_parameters()) == 2, (
        "those that could not move are left out"
    )
    some.remove()
    for layer in model.bert.encoder.layer:
        nn.init.zeros_(layer.output.dense.bias)
    with pytest.raises(InputError, match=r"all 4 targeted tensors are zero.*f\(0 W_down\) = 0 has no gradient"):
        parse("hiwi").method.apply(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiwi:on=head", "unknown on of hiwi 'head'"),
        ("hiwi:nonlinearity=swish", "unknown nonlinearity of hiwi"),
        ("hiwi:r=0", "expected a width of at least 1"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)
