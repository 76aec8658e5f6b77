"""What a tune changes in single layers, in the form that rows of one batch can each have their own of.

    y + (x A^T) B^T c       LoRA                       y + b' - b     a bias
    y + x (W' - W)^T        a layer of the head        y + x_hat (g' - g)     a norm's gain, x_hat normalised
    y + (x A) Theta^T B^T c                            any matrix under projection=kronecker; an embedding's is B[ids] Theta A^T c

Everything else that a method may move, such as all weights of `full`, is refused by its name: those tunes are switched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from d90.errors import InputError
from d90.methods.base import Applied
from d90.subspace import layout
from d90.subspace.subspace import Subspace

__all__ = ["Change", "Changes", "Place", "changes_of", "find_places", "norm_eps", "with_factors"]


@dataclass
class Change:
    """What one tune adds to the outputs of one layer.

    Attributes:
        down: A^T (inputs, r); beside `middle` the same for all tunes of a kind, of an embedding (ids, q).
        up: c B^T (r, outputs), likewise.
        middle: c Theta^T (q, q), between them.
        weight: (W' - W)^T (inputs, outputs).
        bias: b' - b (outputs,).
        gain: g' - g (outputs,), of a LayerNorm or RMSNorm.
    """

    down: Tensor | None = None
    up: Tensor | None = None
    middle: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gain: Tensor | None = None

    @property
    def bytes(self) -> int:
        """The memory it takes of its own."""
        shared = () if self.middle is None else ("down", "up")
        held = [getattr(self, one.name) for one in fields(self) if one.name not in shared]
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
        factors: `down` and `up` of what becomes a `middle`, the same for all tunes of a kind.
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
    factors: tuple[Tensor, Tensor] | None = None


def find_places(applied: Applied, path: object, low_rank: bool = False) -> list[Place]:
    """Every place of a trained tensor; refuses a method that moves what rows of one batch cannot each have their own of.

    Args:
        low_rank: whether the tunes' subspace changes matrices by products of low rank.

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
            part = _part(applied, name, holder, module, key, low_rank)
            if part is None:
                raise InputError(
                    f"'{path}' moves '{name}', and the rows of one batch cannot have their own of it; expected LoRA, biases (bitfit, "
                    "hiwi:on=bias), heads, or full@d=...,projection=kronecker. Switch with bank.use(), or train lora:r=...@d=... instead"
                )
            found.append(_place(applied.model, name, holder, module, key, part))
    return found


def with_factors(places: Sequence[Place], space: Subspace) -> list[Place]:
    """The places with what all tunes of a subspace of low rank share, in the weights' type."""
    held = space.factored(torch.zeros_like(space.theta))
    found = []
    for place in places:
        if place.part == "middle" and place.name not in held:
            place = replace(place, part="weight")  # of a head outside
        elif place.part == "middle":
            left, _, right = held[place.name]
            down, up = (right, left.T) if place.transposed else (left, right.T)
            weight = place.module.get_parameter(place.key)
            place = replace(place, factors=(down.to(weight.dtype), up.to(weight.dtype)))
        found.append(place)
    return found


def changes_of(
    places: Sequence[Place],
    base: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    middles: Mapping[str, Tensor],
) -> Changes:
    """The changes that `values`, the tuned tensors by name, make; `base` are the untuned ones, `middles` stand between factors."""
    found: Changes = {}
    adapters: dict[str, tuple[Place, dict[str, Tensor]]] = {}
    for place in places:
        change = found.setdefault(place.layer, Change())
        if place.part == "middle":
            assert place.factors is not None
            change.down, change.up = place.factors
            middle = middles[place.name]
            change.middle = middle.T.contiguous() if place.transposed else middle
            continue
        value = values[place.name]
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
    transposed = part in ("weight", "middle") and isinstance(module, nn.Linear)
    return Place(name, layer.removesuffix(".base_layer"), part, transposed, scaling, module, key, original)


def _part(applied: Applied, name: str, holder: str, module: nn.Module, key: str, low_rank: bool) -> str | None:
    """Which field of `Change` a trained tensor becomes; "adapter" for HiWi's, None for what cannot be one."""
    lora = _LORA.fullmatch(holder)
    if lora:
        plain = key == "weight" and _plain_lora(applied.model.get_submodule(lora[1]))
        return {"A": "down", "B": "up"}[lora[2]] if plain else None
    if _HIWI.fullmatch(holder):
        return "adapter" if key in ("down", "up") else None
    if key == "bias" and (_is_linear(module) or isinstance(module, nn.LayerNorm)):
        return "bias"
    if key == "weight" and norm_eps(module) is not None:
        return "gain"
    if low_rank and key == "weight" and (_is_linear(module) or _is_plain_embedding(applied.model, module)):
        return "middle"
    return "weight" if key == "weight" and name in applied.head and _is_linear(module) else None


def _plain_lora(layer: Any) -> bool:
    """Whether a layer of peft adds c B A x and nothing else."""
    variants = getattr(layer, "lora_variant", {}) or getattr(layer, "use_dora", {}).get("default")
    return _is_linear(layer.get_base_layer()) and not variants


def norm_eps(module: nn.Module) -> float | None:
    """epsilon of a LayerNorm or RMSNorm over the last dimension; None for other modules."""
    if not (isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm")):
        return None
    found = getattr(module, "eps", None) or getattr(module, "variance_epsilon", None)
    return found if isinstance(found, float) else None


def _is_plain_embedding(model: Any, module: nn.Module) -> bool:
    """Whether it looks ids of tokens or places up, a vector of the model's width for each; no table of relative positions is one."""
    find = getattr(model, "get_input_embeddings", None)
    words = find() if find is not None else None
    return (
        type(module) is nn.Embedding
        and module.max_norm is None
        and module.embedding_dim == getattr(words, "embedding_dim", 0)
    )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
