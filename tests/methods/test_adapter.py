"""Adapters beside a slow twin, their places, their draws, and the counts of the papers."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.methods import Adapter, Context, counts, parse
from d90.models.fresh import draw
from tests.methods.table import INPUTS, MASK, bert, checkpoint_layers, gpt2, llama, loss_of, outputs_of
from tests.reference.sizes import on_meta


def filled(model: nn.Module, method: str, seed: int = 3) -> None:
    """Put the method on, and give every new weight a value that is not its start."""
    before = {id(p) for p in model.parameters()}
    parse(method).method.apply(model, Context(seed=seed))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in before:
                parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.3)


def slow(y: Tensor, adapter: Any, f: Any) -> Tensor:
    """h = y + W_up f(W_down LN(y) + b) + b, token by token."""
    out = y.clone()
    for i, j in torch.cartesian_prod(torch.arange(y.shape[0]), torch.arange(y.shape[1])).tolist():
        x = y[i, j]
        if isinstance(adapter.norm, nn.LayerNorm):
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * adapter.norm.weight + adapter.norm.bias
        out[i, j] += adapter.up.weight @ f(adapter.down.weight @ x + adapter.down.bias) + adapter.up.bias
    return out


@pytest.mark.parametrize("kind", ["houlsby", "lin", "pfeiffer"])
def test_a_block_with_adapters_computed_by_hand(kind: str) -> None:
    model: Any = bert().eval()
    filled(model, f"adapter:kind={kind},r=3")
    f = nn.functional.gelu if kind == "houlsby" else torch.relu
    block, x = model.bert.encoder.layer[1], torch.randn(2, 5, 16)
    with torch.no_grad():
        context = block.attention.self(x)[0]
        dense = block.attention.output.dense
        y = nn.functional.linear(context, dense.weight, dense.bias)
        if kind == "houlsby":
            y = slow(y, block.attention.output.dense_adapter, f)
        after = block.attention.output.LayerNorm(y + x)
        dense = block.output.dense
        y = nn.functional.linear(block.intermediate(after), dense.weight, dense.bias)
        wanted = block.output.LayerNorm(slow(y, block.output.dense_adapter, f) + after)
        found = block(x)
    torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "kind", "blocks", "places"),
    [
        (bert, "houlsby", "bert.encoder.layer.{}", ["attention.output.dense", "output.dense"]),
        (bert, "lin", "bert.encoder.layer.{}", ["output.dense"]),
        (gpt2, "houlsby", "transformer.h.{}", ["attn.c_proj", "mlp.c_proj"]),
        (llama, "pfeiffer", "model.layers.{}", ["mlp.down_proj"]),
    ],
)
def test_where_they_stand(model: Callable[[], nn.Module], kind: str, blocks: str, places: list[str]) -> None:
    module = model()
    parse(f"adapter:kind={kind},r=2").method.apply(module)
    found = [name for name, _ in module.named_modules() if name.endswith("_adapter")]
    layers = 3 if model is llama else 2
    assert found == [f"{blocks.format(i)}.{place}_adapter" for i in range(layers) for place in places]


def test_weights_come_from_our_own_stream() -> None:
    model: Any = bert()
    state = torch.random.get_rng_state()
    parse("adapter:r=3,kind=lin").method.apply(model, Context(seed=9))
    assert torch.equal(torch.random.get_rng_state(), state)
    adapter = model.bert.encoder.layer[1].output.dense_adapter
    drawn = draw("adapter.down:bert.encoder.layer.1.output.dense", torch.Size((3, 16)), 9, uniform=True) / math.sqrt(16)
    assert torch.equal(adapter.down.weight, drawn)
    assert adapter.down.weight.abs().max() <= 0.25
    assert not any(p.any() for p in (adapter.up.weight, adapter.up.bias, adapter.down.bias, adapter.norm.bias))
    assert torch.equal(adapter.norm.weight, torch.ones(16))


def test_adapters_in_a_half_precision_model_are_fp32_its_outputs_are_not_and_a_deep_copy_has_its_own() -> None:
    model: Any = llama().to(torch.bfloat16).eval()
    before = {id(p) for p in model.parameters()}
    parse("adapter:r=3").method.apply(model)
    assert {p.dtype for p in model.parameters() if id(p) in before} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if id(p) not in before} == {torch.float32}
    outputs = outputs_of(model)
    assert outputs.dtype == torch.bfloat16
    twin: Any = copy.deepcopy(model)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj_adapter.up.bias.fill_(1.0)
    assert torch.equal(outputs_of(twin), outputs)
    assert not torch.equal(outputs_of(model), outputs)


def test_under_gradient_checkpointing_the_gradients_are_the_same() -> None:
    plain: Any = bert()
    filled(plain, "adapter:r=3")
    again: Any = copy.deepcopy(plain)
    checkpoint_layers(again)
    for model in (plain, again):
        model.train()
        torch.manual_seed(0)  # dropout
        loss_of(model).backward()
    for one, other in zip(plain.parameters(), again.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad)


def test_beside_lora_on_the_same_matrices_in_either_order() -> None:
    for method in ("lora:r=2,targets=o/mlp+adapter:r=2", "adapter:r=2+lora:r=2,targets=o/mlp"):
        model = bert()
        outputs, names = outputs_of(model), [name for name, _ in model.named_parameters()]
        applied = parse(method).method.apply(model)
        assert torch.equal(outputs_of(model), outputs)
        assert sum(name.endswith("_adapter.down.weight") for name, _ in model.named_parameters()) == 4
        applied.remove()
        assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize(
    ("model", "method", "d", "n_adapters", "n_ln", "r", "published"),
    [  # millions, as tables 2, 3 and 4 of Hu et al. 2021 round them
        ("GPT-3", "adapter:r=1", 12288, 192, 0, 1, 7.1),
        ("GPT-3", "adapter:r=8", 12288, 192, 0, 8, 40.1),
        ("GPT-2 M", "adapter:kind=lin,r=6", 1024, 24, 24, 6, 0.37),
        ("GPT-2 M", "adapter:kind=lin,r=224", 1024, 24, 24, 224, 11.09),
        ("GPT-2 L", "adapter:kind=lin,r=8", 1280, 36, 36, 8, 0.88),
        ("GPT-2 L", "adapter:kind=lin,r=248", 1280, 36, 36, 248, 23.0),
        ("RoBERTa-large", "adapter:kind=pfeiffer,r=16", 1024, 24, 0, 16, 0.8),
        ("RoBERTa-large", "adapter:r=8", 1024, 48, 0, 8, 0.8),
        ("RoBERTa-base", "adapter:reduction=16", 768, 24, 0, 48, None),
        ("RoBERTa-base", "adapter", 768, 24, 0, 48, None),
    ],
)
def test_counts_are_the_papers(
    model: str, method: str, d: int, n_adapters: int, n_ln: int, r: int, published: float | None
) -> None:
    spec = parse(method)
    found = counts(spec, spec.method.apply(on_meta(model)))
    formula = n_adapters * (2 * d * r + r + d) + 2 * n_ln * d
    assert found.moved == found.trained == found.stored == found.added == formula
    assert found.head == 0
    if published is not None:
        digits = 2 if "GPT-2" in model else 1
        assert round(formula / 1e6, digits) == published


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("adapter:kind=houlsbi", "unknown kind of adapter 'houlsbi'.*Did you mean 'houlsby'"),
        ("adapter:r=0", "got r=0, expected a whole number of at least 1"),
        ("adapter:reduction=-2", "got reduction=-2, expected a whole number of at least 1"),
        ("adapter:r=4,reduction=4", "got r=4 and reduction=4, expected one"),
        ("adapter:nonlinearity=sine", "unknown nonlinearity of adapter 'sine'"),
        ("adapter:r=four", "got r=four, expected an integer"),
        ("adapter:width=4", "unknown option of method 'adapter' 'width'"),
    ],
)
def test_what_it_cannot_be(method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(method)


def test_the_text_names_the_method_again() -> None:
    for text in ("adapter", "adapter:r=4", "adapter:kind=lin,reduction=8,nonlinearity=silu"):
        written = str(parse(text))
        assert str(parse(written)) == written
    assert str(Adapter(r=4)) == "adapter:kind=houlsby,r=4,nonlinearity=gelu"


def test_a_model_without_the_sublayers() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))

    with pytest.raises(InputError, match="found no o, mlp_out; this model has the roles none and modules called 0"):
        parse("adapter:r=2").method.apply(Odd())


def test_a_sequential_does_not_run_it_twice() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(4, 8), gelu=nn.GELU(), c_proj=nn.Linear(8, 4)))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mlp(x)

    model = nn.Module()
    model.blocks = nn.ModuleList([Block()])
    filled(model, "adapter:kind=pfeiffer,r=2")
    (block,), x = model.blocks, torch.randn(2, 3, 4)
    with torch.no_grad():
        bare = nn.functional.linear(
            nn.functional.gelu(block.mlp.c_fc(x)), block.mlp.c_proj.weight, block.mlp.c_proj.bias
        )
        torch.testing.assert_close(block(x), x + slow(bare, block.mlp.c_proj.c_proj_adapter, torch.relu))


def test_padding_changes_nothing() -> None:
    model: Any = llama().eval()
    filled(model, "adapter:r=3")
    rows = [INPUTS[1, :5], INPUTS[2, :6]]
    with torch.no_grad():
        alone = torch.cat([model(input_ids=row[None], attention_mask=torch.ones(1, len(row))).logits for row in rows])
        together = model(input_ids=INPUTS[1:3] * MASK[1:3], attention_mask=MASK[1:3]).logits
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
