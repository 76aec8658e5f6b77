"""How what d90 writes of a language model is served elsewhere: the lines for vLLM and Ollama, as their documentation has them."""

from __future__ import annotations

import os
import shlex

__all__ = ["serving_lines"]

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM's --max-lora-rank takes


def serving_lines(base: str, folder: str | os.PathLike[str], rank: int | None = None) -> list[str]:
    """A line for each server.

    Args:
        base: the base model's name or folder, of an adapter.
        folder: of the adapter, or of a merged model.
        rank: of the adapter; None for a merged model.
    """
    path = os.fspath(folder)
    if rank is None:
        return [f"vllm serve {shlex.quote(path)}", f"ollama: a Modelfile of one line, FROM {path}"]
    most = next((one for one in RANKS if one >= rank), rank)
    return [
        f"vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {most} --lora-modules {shlex.quote(f'tuned={path}')}",
        f"ollama: a Modelfile of two lines, FROM {base} and ADAPTER {path}",
    ]
