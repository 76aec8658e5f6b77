"""Which files a checkpoint would be read from, looked at before anything is loaded: safetensors in the model's own folder."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from d90.errors import UnsupportedModelError

__all__ = ["check_weight_files"]

INDEX = "model.safetensors.index.json"
MAX_INDEX = 64 << 20  # bytes
SUFFIX = ".safetensors"


def check_weight_files(name: str, source: str, config: Any, revision: str | None = None) -> None:
    """Refuse a model whose weights would be read from anything but safetensors files in its own folder.

    A shard index and the config's `transformers_weights` name files freely: a pickle, or a file elsewhere on the machine.

    Args:
        name: the model's, for errors.
        source: its folder, or its name on the hub.
        config: as `AutoConfig` read it.
        revision: of the hub.

    Raises:
        UnsupportedModelError: a file that is no safetensors file, or not of the model's folder; an index that cannot be read.
    """
    named = getattr(config, "transformers_weights", None)
    if named is not None:
        _check_name(name, "config.json", str(named).removesuffix(".index.json"))
    for index in {INDEX, *([str(named)] if str(named).endswith(".index.json") else [])}:
        path = _find(source, index, revision)
        if path is not None:
            for shard in _shards(name, path):
                _check_name(name, index, shard)


def _find(source: str, index: str, revision: str | None) -> Path | None:
    if os.path.isdir(source):
        path = Path(source, index)
        return path if path.is_file() else None
    from transformers.utils import cached_file

    quiet = dict.fromkeys(
        (
            "_raise_exceptions_for_missing_entries",
            "_raise_exceptions_for_connection_errors",
            "_raise_exceptions_for_gated_repo",
        ),
        False,
    )
    found = cached_file(source, index, revision=revision, **quiet)
    return Path(found) if found else None


def _shards(name: str, path: Path) -> set[str]:
    if path.stat().st_size > MAX_INDEX:
        raise UnsupportedModelError(
            f"model '{name}': {path.name} has {path.stat().st_size:,} bytes, expected at most {MAX_INDEX:,}"
        )
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        if not all(isinstance(shard, str) for shard in shards):
            raise TypeError("a shard's name is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsupportedModelError(
            f"model '{name}': {path.name} is no index of shards ({type(error).__name__}); fetch the model again"
        ) from None
    return set(shards)


def _check_name(name: str, where: str, shard: str) -> None:
    parts = PurePosixPath(shard.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in shard or "\0" in shard:
        raise UnsupportedModelError(
            f"model '{name}': {where} names the weights '{shard}', expected a file in the model's own folder. Nothing was loaded; "
            "choose another model"
        )
    if not shard.endswith(SUFFIX):
        raise UnsupportedModelError(
            f"model '{name}': {where} names the weights '{shard}', expected {SUFFIX} files: others can run code when they are read. "
            "Nothing was loaded; convert the model to safetensors"
        )
