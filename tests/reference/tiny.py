"""A text classifier and a task of a few words: tunes of a Hugging Face model in seconds, without a download."""

from __future__ import annotations

import json
from pathlib import Path

import d90
from d90.training.run import Run
from tests.reference.tokenizer import save_tokenizer

__all__ = ["tiny_model", "tiny_run", "tiny_task"]


def tiny_model(folder: Path) -> Path:
    """A BERT of one layer, with the tokenizer of three words."""
    import torch
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = t.BertConfig(
        vocab_size=7,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        pad_token_id=0,
    )
    t.BertForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder, marks=True)
    logging.enable_progress_bar()
    return folder


def tiny_task(folder: Path) -> Path:
    """More a's than b's, or not."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("a a b", "more"), ("b a b", "less"), ("a c a", "more"), ("b b c", "less")] * 10
    for name in ("train", "validation"):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def tiny_run(folder: Path, method: str = "full@d=20") -> Run:
    """A run of the method on both, its tune at folder/task.d90; the model is released."""
    model, task = folder / "base", folder / "data"
    if not model.exists():
        tiny_model(model)
        tiny_task(task)
    run = d90.train(
        str(model), str(task), method, epochs=2, batch_size=8, evaluations=2, lr=0.02, max_length=8, precision="fp32"
    )
    run.save(folder / "task.d90")
    return run
