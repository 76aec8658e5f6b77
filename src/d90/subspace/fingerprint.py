"""What a tune and a stored trial are tied to: four parts of a base model, and one digest of them.

    weights    every parameter's name, shape and values in fp32: the same in any dtype or shard layout that holds equal values
    tokenizer  how texts become ids (`d90.models.fingerprint`); "-" where a bare module was given
    config     what else decides the outputs: heads, activation, rope; of a module without one, its modules and their options
    buffers    every persistent buffer's name, shape and values

The parts lie in the JSON beside a tune, so that an error names the one that differs; the file holds their digest. Before
format 3 a file knew the weights alone, rounded to bf16 (`earlier_weights`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.files import Json
from d90.subspace.header import NO_PART
from d90.subspace.layout import fingerprint as earlier_weights

__all__ = [
    "NOT_COVERED",
    "NO_PART",
    "Base",
    "base_of",
    "config_digest",
    "digest_of",
    "earlier_weights",
    "note_tokenizer",
    "persistent_buffers",
    "tensor_digest",
    "tokenizer_of",
]

NOT_COVERED = (
    "it was written before fingerprints covered tokenizer, config and buffers, and knows the base's weights to 3 digits "
    "alone; make sure that the rest of the base is unchanged"
)
_CHUNK = 1 << 22  # numbers cast at once
# Named by the task or by the machine, or without effect on the outputs.
_NOT_THE_MODEL = {
    "architectures", "attn_implementation", "auto_map", "dtype", "finetuning_task", "gradient_checkpointing", "id2label", "label2id",
    "model_type_path", "name_or_path", "num_labels", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
    "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "use_cache",
}  # fmt: skip
_SAID_NOWHERE = ("num_heads", "norm_first", "batch_first")  # options that torch's `extra_repr` leaves out


@dataclass(frozen=True)
class Base:
    """The four parts of a base model, 16 hex digits each (the tokenizer's 8), or "-" for what is not there."""

    weights: str
    tokenizer: str = NO_PART
    config: str = NO_PART
    buffers: str = NO_PART

    @property
    def digest(self) -> str:
        """The four as one: 16 hex digits."""
        return digest_of(asdict(self))

    def differs(self, other: Base) -> list[str]:
        """The names of the parts that are not the same in both; one that either lacks cannot be compared."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in (field.name for field in fields(Base))}
        return [name for name, (mine, theirs) in pairs.items() if NO_PART not in (mine, theirs) and mine != theirs]

    def to_dict(self) -> dict[str, str]:
        """As it lies in the JSON beside a tune."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, object]) -> Base:
        """From JSON.

        Raises:
            InputError: a part that is missing or no hash.
        """
        names = [field.name for field in fields(cls)]
        wrong = next((n for n in names if not re.fullmatch(r"-|[0-9a-f]{8}|[0-9a-f]{16}", str(found.get(n, "")))), None)
        if wrong is not None:
            raise InputError(f"got '{found.get(wrong)}' for the base's {wrong}, expected a hash of 16 hex digits")
        return cls(**{name: str(found[name]) for name in names})


def base_of(
    model: nn.Module,
    values: Mapping[str, Tensor] | None = None,
    without: Iterable[str] = (),
    tokenizer: str | None = None,
) -> Base:
    """The four parts of a model as it stands.

    Args:
        model: the base, or a model whose tensors were moved by a tune.
        values: the base's own values of parameters and buffers that were moved, by name.
        without: parameters that come from no checkpoint, and are left out.
        tokenizer: its digest; by default the one noted on the module.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    values, left_out = values or {}, set(without)
    parameters = (
        (n, values[n].view_as(p) if n in values else p) for n, p in model.named_parameters() if n not in left_out
    )
    buffers = ((name, values.get(name, buffer)) for name, buffer in persistent_buffers(model))
    return Base(
        tensor_digest(parameters), tokenizer if tokenizer is not None else tokenizer_of(model), config_digest(model),
        tensor_digest(buffers),
    )  # fmt: skip


def note_tokenizer(model: nn.Module, digest: str) -> None:
    """Note on a module which tokenizer belongs to it, for every fingerprint taken of it later."""
    model._d90_tokenizer = digest  # type: ignore[assignment]


def tokenizer_of(model: nn.Module) -> str:
    """The digest of the tokenizer that was noted on a module; "-" for none."""
    return str(getattr(model, "_d90_tokenizer", NO_PART))


def digest_of(what: object, digits: int = 16) -> str:
    """Hex digits of the SHA-256 of anything JSON can hold, the order of its keys left aside."""
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


@torch.no_grad()
def tensor_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits over names, shapes and values, in the order of the names; "-" for no tensor.

    Floating values are taken in fp32, where -0 equals 0; others as integers of 64 bits.
    """
    digest, count = hashlib.sha256(), 0
    for name, tensor in sorted(named, key=lambda item: item[0]):
        count += 1
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        for part in _values(tensor.detach()):
            digest.update(part.numpy().data)
    return digest.hexdigest()[:16] if count else NO_PART


def _values(tensor: Tensor) -> Iterator[Tensor]:
    """The values, some millions at once: a large embedding is not held twice."""
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
    for part in flat.split(_CHUNK) if len(flat) else ():
        yield (
            part.to("cpu", torch.float32) + 0.0 if part.is_floating_point() else part.to("cpu", torch.int64)
        ).contiguous()


def persistent_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that a state_dict would hold, by their full names; a mask that belongs to the tune is none of the base's."""
    found = []
    for prefix, module in model.named_modules():
        if getattr(module, "belongs_to_tune", False):
            continue
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                found.append((f"{prefix}.{name}".lstrip("."), buffer))
    return found


def config_digest(model: nn.Module) -> str:
    """16 hex digits over what a model's weights do not say: its config, or its modules and their options.

    Of a config, what differs from its class's defaults: a field that a later version adds changes nothing.
    """
    config: Any = getattr(model, "config", None)
    if not callable(getattr(config, "to_dict", None)):
        return digest_of([_described(name, module) for name, module in model.named_modules()])
    try:
        usual = _bare(type(config)().to_dict())
    except Exception:  # a class that cannot be made without arguments has no defaults
        usual = {}
    return digest_of([getattr(config, "model_type", ""), _unusual(_bare(config.to_dict()), usual)])


def _bare(config: Json) -> Json:
    """A config without names of the task, paths, versions, and what has no effect on the outputs."""
    kept = {str(k): v for k, v in config.items() if str(k) not in _NOT_THE_MODEL and not str(k).startswith("_")}
    return {key: _bare(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _unusual(config: Json, usual: Json) -> Json:
    """What of a config is not as usual."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(usual.get(key), dict):
            value = _unusual(value, usual[key])
            if value:
                found[key] = value
        elif key not in usual or usual[key] != value:
            found[key] = value
    return found


def _described(name: str, module: nn.Module) -> list[str]:
    """A module's name, class and options, as torch prints them; and what it does not print of its attention."""
    # an embedding's gradients are sparse while a subspace is enabled: that is no part of the base
    shown = re.sub(r" at 0x[0-9a-f]+|, sparse=True", "", module.extra_repr())
    also = [f"{key}={getattr(module, key)}" for key in _SAID_NOWHERE if isinstance(getattr(module, key, None), int)]
    activation = getattr(module, "activation", None)
    if callable(activation) and not isinstance(activation, nn.Module):
        also.append(f"activation={getattr(activation, '__name__', type(activation).__name__)}")
    return [name, type(module).__name__, shown, *also]
