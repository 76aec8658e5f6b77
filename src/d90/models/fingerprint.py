"""The tokenizer's part of a base's fingerprint: everything that decides which ids a text becomes."""

from __future__ import annotations

import json
from typing import Any

from d90.files import Json
from d90.subspace.fingerprint import NO_PART, digest_of

__all__ = ["tokenizer_digest"]

DIGITS = 8  # a file of d = 200 numbers repeats them, and stays under a kilobyte
_SETTINGS = ("padding_side", "truncation_side", "split_special_tokens", "do_lower_case", "chat_template")
MAX_LENGTH = 10**7  # longer ones mean that the tokenizer names none


def tokenizer_digest(tokenizer: Any | None) -> str:
    """8 hex digits over a tokenizer's vocabulary, merges, normaliser, special tokens and settings; "-" for none.

    What a call leaves in it (its last truncation and padding), paths and versions are left out.
    """
    if tokenizer is None:
        return NO_PART
    found: Json = {key: getattr(tokenizer, key, None) for key in _SETTINGS}
    longest = getattr(tokenizer, "model_max_length", None)
    found["model_max_length"] = longest if isinstance(longest, int) and longest < MAX_LENGTH else None
    found["special"] = {key: str(value) for key, value in getattr(tokenizer, "special_tokens_map", {}).items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found["backend"] = _backend(json.loads(backend.to_str())) if backend is not None else _slow(tokenizer)
    return digest_of(found, DIGITS)


def _backend(parsed: Json) -> Json:
    """A fast tokenizer's own JSON, without its state; merges as pairs, whichever way this version writes them."""
    kept = {key: value for key, value in parsed.items() if key not in ("version", "truncation", "padding")}
    model = dict(kept.get("model") or {})
    if isinstance(model.get("merges"), list):
        model["merges"] = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    return {**kept, "model": model}


def _slow(tokenizer: Any) -> list[Any]:
    """A tokenizer written in Python: its class, vocabulary, merges, and the model it was trained to."""
    pieces: Any = getattr(tokenizer, "sp_model", None)
    model = pieces.serialized_model_proto() if hasattr(pieces, "serialized_model_proto") else b""
    merges = sorted(map(str, getattr(tokenizer, "bpe_ranks", None) or ()))
    vocabulary = tokenizer.get_vocab() if callable(getattr(tokenizer, "get_vocab", None)) else {}
    return [type(tokenizer).__name__, vocabulary, merges, digest_of(model.hex())]
