"""Folders of sentence-transformers: how they pool a text's states, and how one is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.tasks.kinds.embeddings import POOLINGS

__all__ = ["pooling_of", "write_sentence_folder"]

_KEYS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


def pooling_of(name: str, folder: Path) -> str:
    """What a folder's modules say; the mean where they say nothing.

    Raises:
        InputError: another pooling, or several at once.
    """
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"model '{name}': '{file}' is no JSON object, expected sentence-transformers' pooling")
    said = found.get("pooling_mode")
    modes = (
        [said]
        if isinstance(said, str)
        else [key for key, value in found.items() if key.startswith("pooling_mode") and value is True]
    )
    known = [_KEYS.get(mode, mode) for mode in modes]
    if len(known) != 1 or known[0] not in POOLINGS:
        raise InputError(
            f"model '{name}' pools by {', '.join(known) or 'nothing'}, expected one of {', '.join(POOLINGS)}"
        )
    return known[0]


def write_sentence_folder(folder: Path, pooling: str, width: int, longest: int | None) -> None:
    """What makes a model's folder one of sentence-transformers: its modules, pooling, and vectors of length 1."""
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    chosen = {key: mode == pooling for key, mode in _KEYS.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **chosen})
    (folder / "2_Normalize").mkdir()


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
