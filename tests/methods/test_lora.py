"""LoRA and peft's other methods: the equation, the counts of the papers, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d90.errors import InputError
from d90.methods import Applied, Context, LoRA, Peft, apply, counts, parse
from d90.models.fresh import draw
from tests.methods.table import bert, gpt2, llama, loss_of
from tests.reference.sizes import roberta, shapes


def gpt3() -> nn.Module:
    """GPT-3's d = 12288 and L = 96, with q and v apart as the paper counts them."""
    return shapes(
        *("OPT",),
        **{"hidden_size": 12288, "ffn_dim": 49152, "num_hidden_layers": 96, "num_attention_heads": 96},
        **{"word_embed_proj_dim": 12288, "vocab_size": 50272, "max_position_embeddings": 2048},
    )


@pytest.mark.parametrize(
    ("model", "method", "numbers"),
    [
        ("gpt3", "lora:r=8,targets=qv", 37_748_736),  # Hu et al. 2021, table 4
        ("gpt3", "lora:r=1,targets=qv", 4_718_592),
        ("base", "lora:r=8,targets=qv", 294_912),
        ("large", "lora:r=8,targets=qv", 786_432),
    ],
)
def test_counts_are_the_papers(model: str, method: str, numbers: int) -> None:
    network = gpt3() if model == "gpt3" else roberta(model)
    spec = parse(method)
    applied = spec.method.apply(network)
    got = counts(spec, applied)
    assert got.moved - got.head == numbers
    assert got.trained == got.stored == got.moved
    assert got.added == 0
    assert counts(spec.at(500), applied).stored == 500


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("transposed", [False, True])
def test_the_merged_weight_is_w_plus_alpha_over_r_b_a(transposed: bool) -> None:
    model = gpt2() if transposed else bert()
    spec = parse("lora:r=3,alpha=12,targets=" + ("qkv" if transposed else "v"))
    before = weights(model)
    applied_method = apply(spec, model, 7)
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight  # type: ignore[index]
            assert not b.any()
            expected = draw(f"lora.A:{name}", a.shape, 7, uniform=True) / a.shape[1] ** 0.5
            assert torch.equal(a, expected)
            with torch.no_grad():
                b.normal_()
            factors[name] = (a.detach().clone(), b.detach().clone())
    assert len(factors) == 2
    applied_method.merge()
    for name, (a, b) in factors.items():
        delta = 4 * (b @ a)
        expected = before[f"{name}.weight"] + (delta.T if transposed else delta)
        torch.testing.assert_close(model.get_parameter(f"{name}.weight"), expected)
    same = [name for name in before if name.removesuffix(".weight") not in factors]
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in same)


def test_the_papers_start_is_gaussian_and_the_codes_is_uniform() -> None:
    for init, edge in (("paper", 1 / 4), ("code", 1 / 16**0.5)):
        model = llama()
        LoRA(r=4, targets="all", init=init).apply(model, Context(seed=1))
        drawn = torch.cat(
            [p.flatten() for name, p in model.named_parameters() if "lora_A" in name and p.shape[1] == 16]
        )
        if init == "code":
            assert drawn.abs().max() <= edge
            assert abs(drawn.std() - edge / 3**0.5) < 0.02
        else:
            assert drawn.abs().max() > 2 * edge
            assert abs(drawn.std() - edge) < 0.02


@pytest.mark.parametrize("scale", ["tensor", "global", "relative"])
@pytest.mark.parametrize("structure", ["did", "said"])
def test_b_at_zero_leaves_a_subspace_a_gradient(scale: str, structure: str) -> None:
    model = bert()
    model.eval()
    applied_method = apply(parse(f"lora:r=2@d=40,structure={structure},scale={scale}"), model)
    loss_of(model).backward()
    theta = next(iter(applied_method.trained.parameters()))
    assert theta.grad is not None
    assert theta.grad[:30].count_nonzero() == 30
    spread = {name for name, p in model.named_parameters() if "lora_B" in name}
    assert spread
    with torch.no_grad():
        theta.add_(0.1)
    applied_method.trained.flush()
    assert all(model.get_parameter(name).any() for name in spread)


def test_a_peft_config_is_written_as_a_text_that_makes_it_again() -> None:
    from peft import LoHaConfig

    method = Peft(LoHaConfig(r=3, alpha=5, target_modules=["value", "query"]))
    assert str(method) == "peft:type=LOHA,targets=query/value,r=3,alpha=5"
    again = parse(str(method)).method
    assert str(again) == str(method)
    moved = [
        {name: p.shape for name, p in m.apply(bert(), Context(2)).model.named_parameters() if p.requires_grad}
        for m in (method, again)
    ]
    assert moved[0] == moved[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora:r=0", "got r=0, expected a rank of at least 1"),
        ("lora:init=zero", "unknown init of lora 'zero'.*code, paper"),
        ("lora:r=2.5", "got r=2.5, expected an integer"),
        ("peft:type=lorra", "unknown type of peft 'LORRA'"),
        ("peft:type=loha,rank=2", "unknown option of peft:type=LOHA 'rank'"),
        ("peft:type=prefix_tuning,num_virtual_tokens=4", r"wraps the whole model's forward pass.*prelayer"),
    ],
)
def test_what_is_refused_at_once(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


def test_peft_says_in_its_words_what_it_cannot_do() -> None:
    model = bert()
    with pytest.raises(InputError, match="peft cannot put it into this model"):
        parse("peft:type=loha,r=-1").method.apply(model)
    assert not any("hada" in name for name, _ in model.named_parameters())
    assert "peft_config" not in vars(model)
    assert isinstance(parse("lora").method.apply(model), Applied)


def test_a_type_that_changes_the_base_gives_it_back() -> None:
    model = bert()
    before = weights(model)
    applied_method = apply(parse("peft:type=lora,r=2,init_lora_weights=pissa"), model)
    assert not torch.equal(
        before["bert.encoder.layer.0.attention.self.query.weight"],
        model.get_parameter("bert.encoder.layer.0.attention.self.query.base_layer.weight"),
    )
    applied_method.release()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
