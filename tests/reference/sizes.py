"""Models of published sizes without weights, to count on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["SIZES", "on_meta", "roberta", "shapes"]

SIZES: dict[str, tuple[str, dict[str, int]]] = {
    "GPT-3": (
        "OPT",
        {"hidden_size": 12288, "num_hidden_layers": 96, "ffn_dim": 49152, "num_attention_heads": 96}
        | {"word_embed_proj_dim": 12288},
    ),
    "GPT-2 M": ("GPT2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "GPT-2 L": ("GPT2", {"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "RoBERTa-base": ("Roberta", {}),
    "RoBERTa-large": (
        "Roberta",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
}


def on_meta(name: str) -> nn.Module:
    """The base model of that name, without weights."""
    import transformers

    family, sizes = SIZES[name]
    with torch.device("meta"):
        return transformers.AutoModel.from_config(getattr(transformers, f"{family}Config")(**sizes))


def shapes(kind: str, **sizes: Any) -> nn.Module:
    """A sequence classifier of a family, without weights."""
    import transformers

    with torch.device("meta"):
        config = getattr(transformers, f"{kind}Config")(**sizes)
        return getattr(transformers, f"{kind}ForSequenceClassification")(config)


def roberta(size: str) -> nn.Module:
    """RoBERTa "base" or "large", without weights."""
    big = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    return shapes("Roberta", vocab_size=50265, **(big if size == "large" else {}))
