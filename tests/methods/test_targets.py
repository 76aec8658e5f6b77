"""Finding q, k, v, o and mlp in the families of the hub, and the errors where they are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from d90.errors import InputError
from d90.methods import Context, parse
from d90.methods.targets import find_targets, hidden_size, linear_matrices, transformer_blocks
from tests.methods.table import MODELS, bert, gpt2, llama, plain
from tests.reference.families import save_family

ATTENTION, BERT = {"q", "k", "v", "o"}, {"q", "k", "v", "o", "mlp_in", "mlp_out"}
FUSED = {"qkv", "o", "mlp_in", "mlp_out"}
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 90,
}
FAMILIES = {
    "Bert": (SMALL, BERT, 64),
    "Roberta": (SMALL, BERT, 64),
    "Electra": (SMALL, BERT, 64),
    "MPNet": (SMALL, BERT, 64),
    "DebertaV2": (SMALL, BERT, 64),
    "Albert": (SMALL, BERT, 64),
    "DistilBert": ({"n_layers": 2, "dim": 64, "hidden_dim": 128, "n_heads": 4, "vocab_size": 90}, BERT, 64),
    "Llama": (SMALL, BERT, 64),
    "Qwen2": (SMALL | {"num_key_value_heads": 4}, BERT, 64),
    "Phi": (SMALL, BERT, 64),
    "OPT": ({**SMALL, "ffn_dim": 100, "word_embed_proj_dim": 64}, BERT, 64),
    "GPT2": ({"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 90}, FUSED, 64),
    "GPTNeoX": (SMALL, FUSED, 64),
    "Bloom": ({"n_layer": 2, "hidden_size": 64, "n_head": 4, "vocab_size": 90}, FUSED, 64),
    "Falcon": (SMALL, FUSED, 64),
    "T5": ({"num_layers": 2, "d_model": 64, "vocab_size": 90}, BERT, 64),
    "Bart": ({"encoder_layers": 2, "decoder_layers": 1, "d_model": 64, "vocab_size": 90}, BERT, 64),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_a_block_has_its_role(family: str) -> None:
    import transformers

    sizes, expected, width = FAMILIES[family]
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    with torch.device("meta"):
        config = getattr(transformers, f"{family}Config")(**sizes, **marks)
        model = transformers.AutoModel.from_config(config)
    have = linear_matrices(model)
    assert {matrix.role for matrix in have} == expected
    assert hidden_size(model) == width
    for matrix in have:
        inputs, outputs = matrix.sizes
        if matrix.role in ("o", "mlp_out"):
            assert outputs == width
        if matrix.role in ("q", "k", "v", "qkv", "mlp_in"):
            assert inputs == width
    assert [m.name for m in find_targets(model, "all")] == [m.name for m in have]
    assert all(m.role.startswith("mlp") for m in find_targets(model, "mlp"))


def names(model: nn.Module, targets: str) -> list[str]:
    return [matrix.name.split(".", 3)[-1] for matrix in find_targets(model, targets)]


def test_letters_names_and_their_union() -> None:
    ends = [f"{i}.attention.self.{name}" for i in (0, 1) for name in ("query", "value")]
    assert names(bert(), "qv") == ends
    assert names(bert(), "query/value") == names(bert(), "qv") == names(bert(), "v/q")
    assert names(bert(), "attention.output.dense") == names(bert(), "o")
    assert len(names(bert(), "qkvo/mlp")) == len(names(bert(), "all")) == 12
    assert names(gpt2(), "qkv") == names(gpt2(), "c_attn") == ["attn.c_attn", "attn.c_attn"]
    assert all(matrix.transposed for matrix in find_targets(gpt2(), "all"))
    assert find_targets(gpt2(), "qkv")[0].sizes == (16, 48)
    assert find_targets(llama(), "kv")[0].sizes == (16, 8)


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        ("bert", "x", "'x' matches no linear module.*roles q, k, v, o, mlp_in, mlp_out and modules called query, key"),
        ("bert", "q/wrong", "'wrong' matches no linear"),
        ("bert", "", "'' matches no linear"),
        ("bert", "uery", "'uery' matches no linear"),
        ("gpt2", "q", r"'q' is ambiguous.*one matrix \('transformer.h.0.attn.c_attn'\).*targets=qkv"),
        ("plain", "q", "looked for the blocks of a transformer.*has Normed, Sequential, Linear"),
    ],
)
def test_what_is_not_there_is_said(model: str, targets: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_targets(MODELS[model](), targets)


def test_a_matrix_without_a_role_is_no_target_of_letters() -> None:
    model = llama()
    model.get_submodule("model.layers.0").add_module("gate", nn.Linear(16, 4))
    assert "gate" in [matrix.name.rpartition(".")[2] for matrix in linear_matrices(model)]
    for targets in ("qv", "qkvo", "mlp", "all"):
        assert "gate" not in [matrix.name.rpartition(".")[2] for matrix in find_targets(model, targets)]
    assert [matrix.name for matrix in find_targets(model, "gate")] == ["model.layers.0.gate"]


def test_a_wrapped_matrix_keeps_its_role() -> None:
    model = bert()
    parse("lora:r=2,targets=o").method.apply(model)
    assert [matrix.name.split(".", 4)[-1] for matrix in find_targets(model, "o")] == [
        "attention.output.dense.base_layer"
    ] * 2


def test_blocks_are_the_outermost_lists() -> None:
    assert [name for name, _ in transformer_blocks(llama())] == [f"model.layers.{i}" for i in range(3)]
    with pytest.raises(InputError, match="looked for the blocks"):
        transformer_blocks(plain())


def family(kind: str, tmp_path: Path) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(save_family(kind, tmp_path))


@pytest.mark.parametrize(
    ("kind", "ends", "words"),
    [
        ("gpt2", {"c_attn"}, r"holds q, k and v in one matrix \(c_attn\), and the whole of it is adapted"),
        ("gpt_neox", {"query_key_value"}, "in one matrix"),
        ("bloom", {"query_key_value"}, "in one matrix"),
        ("falcon", {"query_key_value"}, "in one matrix"),
        ("phi3", {"qkv_proj"}, "in one matrix"),
        ("modernbert", {"Wqkv"}, "in one matrix"),
        ("mpt", {"Wqkv"}, "in one matrix"),
        ("funnel", {"q_head", "v_head"}, ""),
        ("xlnet", {"layer_1", "layer_2"}, "linear layers of its blocks"),
    ],
)
def test_the_default_targets_are_found_by_structure_where_names_fail(
    kind: str, ends: set[str], words: str, tmp_path: Path
) -> None:
    model = family(kind, tmp_path)
    assert {matrix.name.rpartition(".")[2] for matrix in find_targets(model, "qv")} == ends
    told: list[str] = []
    applied = parse("lora:r=2").method.apply(model, Context(note=told.append))
    assert {n.split(".lora_A")[0].rpartition(".")[2] for n, _ in model.named_parameters() if "lora_A" in n} == ends
    assert len(told) == (1 if words else 0)
    assert not words or re.search(words, told[0])
    applied.remove()
