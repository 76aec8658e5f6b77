"""A causal language model of one layer over three words, and documents in which a and b alternate."""

from __future__ import annotations

from pathlib import Path

from tests.reference.tokenizer import save_tokenizer

__all__ = ["tiny_causal", "tiny_documents"]


def tiny_causal(folder: Path) -> Path:
    """A Llama of one layer, with the tokenizer of three words and no marks."""
    import torch
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = t.LlamaConfig(
        vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, pad_token_id=0, bos_token_id=None, eos_token_id=3, tie_word_embeddings=True,
    )  # fmt: skip
    t.LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, marks=False)
    logging.enable_progress_bar()
    return folder


def tiny_documents(folder: Path, count: int = 200) -> Path:
    """Documents of 4 to 9 words, a blank line between them; some span two lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, start in (("train", 0), ("validation", 1)):
        documents = []
        for i in range(start, start + count):
            words = (["a", "b"] if i % 2 else ["b", "a"]) * 2 + ["c", "a", "b", "a", "c"][: i % 6]
            documents.append(" ".join(words[:3]) + "\n" + " ".join(words[3:]))
        (folder / f"{name}.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return folder
