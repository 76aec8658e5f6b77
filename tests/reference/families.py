"""Two-layer models of every family of transformers that classifies texts, with random weights: saved in a folder, with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.reference.tokenizer import save_tokenizer

__all__ = ["CANNOT", "FAMILIES", "save_family"]

# names of the same size in the configs of different families; a family takes those it knows
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers",), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "hidden_dim", "n_inner", "ffn_dim", "ffn_hidden_size"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("d_kv", "d_head", "head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 40),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 2, "layer_types": None,
}  # fmt: skip
# what a family needs besides
ALSO: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": ...},
    "funnel": {"num_hidden_layers": ..., "block_sizes": [1, 1], "num_decoder_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32, "embedding_size": 32},
    "longformer": {"attention_window": 4},
    "mpt": {"head_dim": ...},
    "xlnet": {"max_position_embeddings": ...},
    "xmod": {"default_language": "en_XX"},
}
FAMILIES = (
    "albert", "arcee", "bart", "bert", "big_bird", "biogpt", "bloom", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2",
    "diffllama", "distilbert", "doge", "electra", "ernie", "esm", "eurobert", "exaone4", "falcon", "flaubert", "fnet", "funnel", "gemma",
    "gemma2", "gemma3_text", "glm", "glm4", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "gte", "helium",
    "hunyuan_v1_dense", "layoutlm", "llama", "longformer", "mbart", "megatron-bert", "minimax", "ministral", "mistral", "mixtral",
    "mobilebert", "modernbert", "modernbert-decoder", "mpnet", "mpt", "nystromformer", "openai-gpt", "opt", "persimmon", "phi",
    "phi3", "plbart", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "seed_oss", "smollm3", "stablelm", "starcoder2", "t5", "umt5", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet",
    "xmod",
)  # fmt: skip
# families that classify texts and cannot be had here, and why
CANNOT = {
    "canine": "reads characters: 2048 positions at least, hashed into 16,384 buckets; not a model of token ids",
    "ctrl": "its position table and head cannot be made small enough for a test",
    "ibert": "its linear layers are of a kind of their own (QuantLinear), which LoRA cannot wrap; full@d works",
    "layoutlmv2": "needs detectron2",
    "layoutlmv3": "needs images",
    "lilt": "needs boxes",
    "luke": "needs entities, over a vocabulary of 500,000",
    "markuplm": "needs paths of HTML",
    "gemma3": "texts and images: its text part is gemma3_text",
    "perceiver": "a head of queries over a latent array; reads bytes",
    "reformer": "axial positions take one length only in training",
    "squeezebert": "its projections are convolutions, which LoRA's targets do not hold; full@d and bitfit work",
    "tapas": "needs tables",
}


def save_family(kind: str, folder: Path, auto_class: str = "AutoModelForSequenceClassification") -> Path:
    """A model of one family, a sequence classifier by default, with the tokenizer of three words."""
    import torch
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    make = t.CONFIG_MAPPING[kind]
    usual = make()
    marks = {
        "vocab_size": 7,
        "num_labels": 2,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
    }
    marks["decoder_start_token_id"] = 0
    sizes = {key: value for key, value in SIZES.items() if hasattr(usual, key) and value is not None}
    given = {**sizes, **marks, **ALSO.get(kind, {})}
    if getattr(usual, "num_key_value_heads", 2) is None:
        given.pop("num_key_value_heads", None)
    config = make(**{key: value for key, value in given.items() if value is not ...})
    torch.manual_seed(0)
    model: Any = getattr(t, auto_class).from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.05)
    model.save_pretrained(folder)
    save_tokenizer(folder, marks=True)
    logging.enable_progress_bar()
    return folder
