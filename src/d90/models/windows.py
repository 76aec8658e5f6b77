"""Questions about contexts as token ids: windows over a long context that overlap, and the characters that each token stands for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from d90.errors import InputError
from d90.models.model import Model
from d90.tasks.encoded import Encoded
from d90.tasks.kinds.questions import NO_ANSWER, NO_PLACE

__all__ = ["encode_windows"]

OVERLAP = 128  # tokens that two windows share at most, and a third of a window at most


def encode_windows(model: Model, inputs: Sequence[tuple[str, ...]], typed: bool) -> Encoded:
    """The windows of each example one behind another: "input_ids", "low" and "high" (the characters of the context), "window".

    Args:
        typed: whether the model takes token types.

    Raises:
        InputError: a slow tokenizer, or a model too short for a question and a part of a context.
    """
    tokenizer: Any = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer of '{model.name}' is a slow one, expected a fast one (tokenizer.json): answers are found by their places"
        )
    found: dict[str, list[list[int]]] = {name: [] for name in ("input_ids", "low", "high", "window", "token_type_ids")}
    cut = 0
    for question, context in inputs:
        rows, shorter = _windows(model, question, context)
        cut += shorter or len(rows["input_ids"]) > 1
        flat: dict[str, list[int]] = {name: [] for name in found}
        for number, ids in enumerate(rows["input_ids"]):
            sides = rows.sequence_ids(number)
            mark = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
            places = [
                span if side == 1 else (NO_PLACE, NO_PLACE)
                for side, span in zip(sides, rows["offset_mapping"][number], strict=True)
            ]
            places = [span if span[0] < span[1] else (NO_PLACE, NO_PLACE) for span in places]
            places[mark] = (NO_ANSWER, NO_ANSWER)
            flat["input_ids"] += ids
            flat["low"] += [low for low, _ in places]
            flat["high"] += [high for _, high in places]
            flat["window"] += [number] * len(ids)
            flat["token_type_ids"] += rows["token_type_ids"][number] if "token_type_ids" in rows else []
        for name, values in flat.items():
            found[name].append(values)
    if not typed or not all(found["token_type_ids"]):
        del found["token_type_ids"]
    return Encoded(found, cut)


def _windows(model: Model, question: str, context: str) -> tuple[Any, bool]:
    """One example's windows, and whether its question had to be cut to half of what the model takes."""
    tokenizer: Any = model.tokenizer
    encode = partial(tokenizer, split_special_tokens=model.split_special, return_offsets_mapping=True, verbose=False)
    if model.max_length is None:
        return encode([question], [context]), False
    room = model.max_length - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 4:
        raise InputError(
            f"model '{model.name}' takes {model.max_length} tokens, expected room for a question and a part of its context"
        )
    tokens = encode(question, add_special_tokens=False)["offset_mapping"]
    shorter = len(tokens) > room // 2
    if shorter:
        question = question[: tokens[room // 2 - 1][1]]
    left = room - min(len(tokens), room // 2)
    found = encode(
        [question], [context], truncation="only_second", max_length=model.max_length, stride=min(OVERLAP, left // 3),
        return_overflowing_tokens=True,
    )  # fmt: skip
    return found, shorter
