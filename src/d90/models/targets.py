"""Targets of an encoder-decoder: their tokens, and the decoder's inputs, which begin with the model's own mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from d90.errors import InputError
from d90.models.model import Model

__all__ = ["encode_targets", "end_of", "start_of"]


def encode_targets(model: Model, texts: Sequence[str]) -> tuple[dict[str, list[list[int]]], int]:
    """({"target", "decoder_input_ids"}, how many targets were cut to the model's length); an end stands behind each target.

    Raises:
        InputError: a tokenizer without a token that ends a text, or a model that does not say how its decoder begins.
    """
    tokenizer: Any = model.tokenizer
    options = {"split_special_tokens": model.split_special, "verbose": False}
    found = tokenizer(text_target=list(texts), truncation=False, **options)["input_ids"]
    end = end_of(model)
    longest, cut = model.max_length, 0
    if longest is not None:
        room = longest - (end not in found[0])
        cut = sum(len(ids) > room for ids in found)
        if cut:
            found = tokenizer(text_target=list(texts), truncation=True, max_length=room, **options)["input_ids"]
    targets = [list(ids) if end in ids else [*ids, end] for ids in found]
    return {"target": targets, "decoder_input_ids": [_shifted(model, ids) for ids in targets]}, cut


def end_of(model: Model) -> int:
    """The token that ends a target.

    Raises:
        InputError: the tokenizer has none.
    """
    tokenizer: Any = model.tokenizer
    found = next((i for i in (tokenizer.eos_token_id, tokenizer.sep_token_id) if i is not None), None)
    if found is None:
        raise InputError(
            f"the tokenizer of '{model.name}' has no eos token, expected one to end targets with; name one in its tokenizer_config.json"
        )
    return int(found)


def start_of(model: Model) -> int:
    """The token that the decoder begins with, as it was trained with."""
    return encode_targets(model, ["a"])[0]["decoder_input_ids"][0][0]


def _shifted(model: Model, target: list[int]) -> list[int]:
    """What the decoder is given to predict a target: the target one place to the right, behind the mark that the model begins with."""
    module: Any = model.module
    shift = getattr(module, "prepare_decoder_input_ids_from_labels", None)
    try:
        if shift is not None:  # mBART takes the language's mark from the target's end
            ids: list[int] = shift(torch.tensor([target]))[0].tolist()
            return ids
    except (ValueError, TypeError):
        pass
    start = getattr(module.config, "decoder_start_token_id", None)
    if start is None:
        raise InputError(
            f"model '{model.name}' does not say what its decoder begins with, expected decoder_start_token_id in its config.json; "
            "add it, as the model was pretrained"
        )
    return [int(start), *target[:-1]]
