"""Texts that an encoder-decoder writes for sources: as its generation config says, without sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from d90.errors import InputError
from d90.models.model import Model
from d90.models.targets import end_of, start_of
from d90.tasks.kinds import TaskKind
from d90.training.batches import Batches, device_of

__all__ = ["MAX_NEW_TOKENS", "settle_generation", "write"]

MAX_NEW_TOKENS = 128  # where neither the caller nor the model's generation config says
SIZE = 32  # sources in a batch


def settle_generation(model: Model) -> Any:
    """The model's generation config with what d90 trains with: the decoder's start, the end of targets, padding; no sampling.

    Raises:
        InputError: a model that cannot generate.
    """
    module: Any = model.module
    config = getattr(module, "generation_config", None)
    if config is None or not callable(getattr(module, "generate", None)):
        raise InputError(f"model '{model.name}' cannot generate, expected an encoder-decoder of transformers")
    tokenizer: Any = model.tokenizer
    config.do_sample, config.temperature, config.top_p, config.top_k = False, None, None, None
    config.decoder_start_token_id = start_of(model)
    config.eos_token_id = end_of(model)
    config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.eos_token_id
    if config.max_new_tokens is None and config.max_length in (None, 20):  # 20 is the library's own default
        room = None if model.max_length is None else model.max_length - 1
        config.max_length, config.max_new_tokens = None, min(MAX_NEW_TOKENS, room or MAX_NEW_TOKENS)
    return config


@torch.no_grad()
def write(model: Model, kind: TaskKind, texts: Sequence[tuple[str, ...]], limit: int | None = None) -> list[str]:
    """What the model writes for each source, without special tokens, in their order.

    Args:
        limit: new tokens at most; by default as the generation config says.

    Raises:
        InputError: a model that cannot generate.
    """
    module: Any = model.module
    tokenizer: Any = model.tokenizer
    config = settle_generation(model)
    options = {} if limit is None else {"max_new_tokens": limit, "max_length": None}
    batches = Batches(model, kind.examples(texts), kind)
    answers = [""] * len(batches)
    module.eval()
    device = device_of(module)
    for chosen in batches.by_length(SIZE):
        batch = batches.inputs(chosen)
        assert not isinstance(batch, torch.Tensor)
        given = {name: batch[name].to(device) for name in ("input_ids", "attention_mask") if name in batch}
        found = module.generate(**given, generation_config=config, **options)
        for i, ids in zip(chosen.tolist(), found.tolist(), strict=True):
            answers[i] = tokenizer.decode(ids[1:], skip_special_tokens=True).strip()
    return answers
