"""What a tune changes in single layers, in the form that rows of one batch can each have their own of.

    y + (x A^T) B^T c       LoRA                       y + b' - b     a bias
    y + x (W' - W)^T        a layer of the head        y + x_hat (g' - g)     a LayerNorm's gain, x_hat normalised

Everything else that a method may move, such as all weights of `full`, is refused by its name: those tunes are switched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from d90.errors import InputError
from d90.methods.base import Applied
from d90.subspace import layout

__all__ = ["Change", "Changes", "Place", "changes_of", "find_places"]


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


@dataclass(frozen=True)
class Place:
    """Where one trained tensor stands, found once for all tunes of a kind.

    Attributes:
        name: the tensor's.
        layer: the layer's in the plain model.
        part: the field of `Change` that it becomes, or "adapter" for a part of HiWi's.
        transposed: whether the layer holds it as (outputs, inputs).
        scaling: c of LoRA.
        module, key: what holds it, and under which attribute.
        parameter: what HiWi's adapter is applied to.
    """

    name: str
    layer: str
    part: str
    transposed: bool
    scaling: float
    module: nn.Module
    key: str
    parameter: Tensor | None = None


def find_places(applied: Applied, path: object) -> list[Place]:
    """Every place of a trained tensor; refuses a method that moves what rows of one batch cannot each have their own of.

    Raises:
        InputError: with the first such tensor, and what to do.
    """
    named = {id(parameter): name for name, parameter in layout.trainable(applied.model).items()}
    found = []
    for holder, module in applied.model.named_modules():
        for key, parameter in module._parameters.items():
            name = named.get(id(parameter))
            if name is None:
                continue
            part = _part(applied, name, holder, module, key)
            if part is None:
                raise InputError(
                    f"'{path}' moves '{name}', and the rows of one batch cannot have their own of it; expected LoRA, biases (bitfit, "
                    "hiwi:on=bias) and heads. Switch to it with bank.use(), or train lora:r=...@d=... in its place"
                )
            found.append(_place(applied.model, name, holder, module, key, part))
    return found


def changes_of(places: Sequence[Place], base: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Changes:
    """The changes that `values`, the tuned tensors by name, make; `base` are the untuned ones."""
    found: Changes = {}
    adapters: dict[str, tuple[Place, dict[str, Tensor]]] = {}
    for place in places:
        value = values[place.name]
        change = found.setdefault(place.layer, Change())
        if place.part == "adapter":
            adapters.setdefault(place.layer, (place, {}))[1][place.key] = value
        elif place.part == "down":
            change.down = value.T.contiguous()
        elif place.part == "up":
            change.up = value.T.contiguous() * place.scaling
        else:
            delta = value - base[place.name]
            setattr(change, place.part, delta.T.contiguous() if place.transposed else delta)
    for layer, (place, tensors) in adapters.items():
        assert place.parameter is not None
        tuned = functional_call(place.module, tensors, (place.parameter,))
        found[layer].bias = (tuned - place.parameter).detach()
    return found


def _place(model: nn.Module, name: str, holder: str, module: nn.Module, key: str, part: str) -> Place:
    inserted = _LORA.fullmatch(holder) or _HIWI.fullmatch(holder)
    layer = inserted[1] if inserted else holder
    wrapped: Any = model.get_submodule(layer)
    scaling = float(wrapped.scaling["default"]) if part == "up" else 1.0
    original = wrapped.parametrizations.bias.original if part == "adapter" else None
    transposed = part == "weight" and isinstance(module, nn.Linear)
    return Place(name, layer.removesuffix(".base_layer"), part, transposed, scaling, module, key, original)


def _part(applied: Applied, name: str, holder: str, module: nn.Module, key: str) -> str | None:
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


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
