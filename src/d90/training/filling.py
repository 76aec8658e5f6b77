"""Tokens that a masked language model finds for the marks in a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from d90.errors import InputError
from d90.files import Json
from d90.models.model import Model
from d90.training.batches import device_of
from d90.training.precision import autocast

__all__ = ["fill"]

MOST = 5  # tokens that are shown of each mask
SIZE = 32


@torch.no_grad()
def fill(model: Model, texts: Sequence[str], precision: str) -> list[Json]:
    """Each text with the likeliest token at each mark, and the likeliest ones with their probabilities, mark by mark.

    Raises:
        InputError: a text without a mark, or one whose mark is beyond what the model reads.
    """
    tokenizer: Any = model.tokenizer
    mark, module = tokenizer.mask_token_id, model.module
    module.eval()
    found: list[Json] = []
    for begin in range(0, len(texts), SIZE):
        part = list(texts[begin : begin + SIZE])
        given = tokenizer(
            part,
            truncation=model.max_length is not None,
            max_length=model.max_length,
            padding=True,
            return_tensors="pt",
        )
        given = {
            name: values.to(device_of(module))
            for name, values in given.items()
            if not model.inputs or name in model.inputs
        }
        bare = next((i for i, row in enumerate(given["input_ids"]) if not bool((row == mark).any())), None)
        if bare is not None:
            raise InputError(
                f"example {begin + bare + 1} has no {tokenizer.mask_token} among the tokens that the model reads; write it where a word is "
                f"to be found, as 'a {tokenizer.mask_token} of tea'"
            )
        with autocast(module, precision):
            logits = module(**given).logits.float().cpu()
        for text, ids, row in zip(part, given["input_ids"].cpu(), logits, strict=True):
            found.append(_filled(tokenizer, text, row[ids == mark].softmax(dim=-1)))
    return found


def _filled(tokenizer: Any, text: str, shares: torch.Tensor) -> Json:
    best, tokens = shares.topk(min(MOST, shares.shape[-1]), dim=-1)
    marks = [
        [{"token": tokenizer.decode([token]).strip(), "probability": share} for token, share in zip(*pair, strict=True)]
        for pair in zip(tokens.tolist(), best.tolist(), strict=True)
    ]
    for one in marks:
        text = text.replace(tokenizer.mask_token, one[0]["token"], 1)
    return {"answer": text, "probability": best[:, 0].prod().item(), "masks": marks}
