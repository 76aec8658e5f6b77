"""Positions put into a model's input, laid out by hand for the bare model; small decoders of many families."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from d90.methods import Context, parse
from tests.methods.table import INPUTS, MASK, VOCABULARY, gpt2

__all__ = ["FAMILIES", "INFIX", "LENGTHS", "MARKS", "METHOD", "PREFIX", "both", "decoder", "padded", "spread"]

LENGTHS = MASK.sum(1).tolist()
PREFIX, INFIX = 3, 2
METHOD = f"preembed:prefix={PREFIX},infix={INFIX}"
FAMILIES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_layer": 2, "n_embd": 32, "n_head": 4},
    "Llama": {},
    "Qwen2": {"num_key_value_heads": 2},
    "Phi": {},
    "OPT": {"ffn_dim": 40, "word_embed_proj_dim": 32},
    "GPTNeoX": {},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "Falcon": {},
    "Bert": {},
    "Roberta": {},
    "Electra": {"embedding_size": 16},
    "MPNet": {"pad_token_id": 1},  # it counts from 2, whatever its config says
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "DistilBert": {"n_layers": 2, "dim": 32, "hidden_dim": 64, "n_heads": 4},
    "Albert": {"embedding_size": 16},
    "ModernBert": {"global_attn_every_n_layers": 1},
}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def both(model: Any, method: str = METHOD, seed: int = 3) -> tuple[Any, Any]:
    """The bare model, and a copy with the method on it."""
    model.eval()
    other = copy.deepcopy(model)
    parse(method).method.apply(other, Context(seed=seed))
    return model, other


def padded(side: str) -> tuple[Tensor, Tensor]:
    """The texts of the table with padding on this side."""
    if side == "right":
        return INPUTS * MASK, MASK
    ids, mask = torch.zeros_like(INPUTS), torch.zeros_like(MASK)
    for row, length in enumerate(LENGTHS):
        ids[row, -length:] = INPUTS[row, :length]
        mask[row, -length:] = 1
    return ids, mask


def spread(embeds: Tensor, vectors: Tensor, prefix: int, end: int, causal: bool) -> tuple[Tensor, list[int]]:
    """One text (n, d) with the prefix put in, and the infix behind its first `end` tokens; and where its tokens are."""
    at = 0 if causal else 1
    p, i = vectors[:prefix], vectors[prefix:]
    whole = torch.cat((embeds[:at], p, embeds[at:end], i, embeds[end:]))
    places = [*range(at), *range(at + prefix, end + prefix), *range(end + len(vectors), len(whole))]
    if causal and len(i):
        places[end - 1] = end + len(vectors) - 1
    return whole[None], places


def decoder(kind: str) -> Any:
    """A small causal language model: "gpt2", or a Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if kind == "gpt2":
        return gpt2()
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **MARKS))
