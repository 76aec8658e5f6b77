"""What a tune changes in single layers, in the form that rows of one batch can each have their own of.

    y + (x A^T) B^T c       LoRA                       y + b' - b     a bias
    y + x (W' - W)^T        a layer of the head        y + x_hat (g' - g)     a LayerNorm's gain, x_hat normalised

Everything else that a method may move, such as all weights of `full`, is refused by its name: those tunes are switched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from d90.errors import InputError
from d90.methods.base import Applied
from d90.methods.module_state import holders
from d90.subspace import layout

__all__ = ["Change", "Changes", "changes_of", "check_batchable"]


@dataclass
class Change:
    """What one tune adds to the outputs of one layer.

    Attributes:
        down: A^T (inputs, r).
        up: c B^T (r, outputs).
        weight: (W' - W)^T (inputs, outputs).
        bias: b' - b (outputs,).
        gain: g' - g (outputs,), of a LayerNorm.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gain: Tensor | None = None

    @property
    def bytes(self) -> int:
        """The memory it takes."""
        held = [getattr(self, one.name) for one in fields(self)]
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)


Changes = dict[str, Change]  # by the layer's name in the plain model
_LORA = re.compile(r"(.+)\.lora_([AB])\.default")
_HIWI = re.compile(r"(.+)\.parametrizations\.bias\.0")


def check_batchable(applied: Applied, path: object) -> None:
    """Refuse a method that moves what rows of one batch cannot each have their own of.

    Raises:
        InputError: with the first such tensor, and what to do.
    """
    for name, holder, module, key in _moved(applied.model):
        if _field(applied, name, holder, module, key) is None:
            raise InputError(
                f"'{path}' moves '{name}', and the rows of one batch cannot have their own of it; expected LoRA, biases (bitfit, "
                "hiwi:on=bias) and heads. Switch to it with bank.use(), or train lora:r=...@d=... in its place"
            )


def changes_of(applied: Applied, base: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Changes:
    """The changes that `values`, the tuned tensors by name, make; `base` are the untuned ones."""
    found: Changes = {}
    adapters: dict[str, dict[str, Tensor]] = {}
    for name, holder, module, key in _moved(applied.model):
        what, value = _field(applied, name, holder, module, key), values[name]
        if what == "adapter":
            adapters.setdefault(holder, {})[key] = value
            continue
        layer, change = _change(found, holder)
        if what == "down":
            change.down = value.T.contiguous()
        elif what == "up":
            change.up = value.T.contiguous() * _scaling(applied.model, layer)
        else:
            delta = value - base[name]
            transposed = what == "weight" and isinstance(module, nn.Linear)
            setattr(change, str(what), delta.T.contiguous() if transposed else delta)
    for holder, tensors in adapters.items():
        parameter = applied.model.get_submodule(holder.removesuffix(".0")).original
        tuned = functional_call(applied.model.get_submodule(holder), tensors, (parameter,))
        _change(found, holder)[1].bias = (tuned - parameter).detach()
    return found


def _moved(model: nn.Module) -> Iterator[tuple[str, str, nn.Module, str]]:
    """(parameter's name, holder's name, holder, attribute) of every place that holds a trained parameter."""
    for name, parameter in layout.trainable(model).items():
        for holder, module, key in holders(model, parameter):
            yield name, holder, module, key


def _change(found: Changes, holder: str) -> tuple[str, Change]:
    """The layer's name in the plain model, and its change."""
    inserted = _LORA.fullmatch(holder) or _HIWI.fullmatch(holder)
    layer = (inserted[1] if inserted else holder).removesuffix(".base_layer")
    return layer, found.setdefault(layer, Change())


def _field(applied: Applied, name: str, holder: str, module: nn.Module, key: str) -> str | None:
    """Which field of `Change` a trained tensor becomes; "adapter" for HiWi's, None for what cannot be one."""
    lora = _LORA.fullmatch(holder)
    if lora:
        plain = key == "weight" and _plain_lora(applied.model.get_submodule(lora[1]))
        return {"A": "down", "B": "up"}[lora[2]] if plain else None
    if _HIWI.fullmatch(holder):
        return "adapter" if key in ("down", "up") else None
    if key == "bias" and (_is_linear(module) or isinstance(module, nn.LayerNorm)):
        return "bias"
    if key == "weight" and isinstance(module, nn.LayerNorm):
        return "gain"
    return "weight" if key == "weight" and name in applied.head and _is_linear(module) else None


def _plain_lora(layer: Any) -> bool:
    """Whether a layer of peft adds c B A x and nothing else."""
    variants = getattr(layer, "lora_variant", {}) or getattr(layer, "use_dora", {}).get("default")
    return _is_linear(layer.get_base_layer()) and not variants


def _scaling(model: nn.Module, layer: str) -> float:
    wrapped: Any = model.get_submodule(layer)
    return float(wrapped.scaling["default"])


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
