"""Chat templates of six model families, and a tokenizer of bytes that has their special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["TEMPLATES", "chat_model", "chat_tokenizer", "template"]

# family: beginning of a text, end of a text, other special tokens
TEMPLATES: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
    "chatml": ("<|im_start|>", "<|im_end|>", ()),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "mistral": ("<s>", "</s>", ()),
    "gemma": ("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "phi3": ("<s>", "<|endoftext|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "qwen": (None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>")),
}


def template(family: str) -> str:
    """A family's chat template."""
    return (Path(__file__).parent / "templates" / f"{family}.jinja").read_text(encoding="utf-8")


def chat_tokenizer(family: str, chat_template: bool = True) -> Any:
    """A token a byte, and a family's special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bos, eos, others = TEMPLATES[family]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    special: dict[str, Any] = {"eos_token": eos, "pad_token": "<pad>", "additional_special_tokens": list(others)}
    special |= {"bos_token": bos} if bos else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    if chat_template:
        tokenizer.chat_template = template(family)
    return tokenizer


def chat_model(folder: Path, family: str = "chatml", positions: int = 256) -> Path:
    """A Llama of one layer over bytes, with a chat template."""
    import torch
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(family)
    config = t.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    t.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder
