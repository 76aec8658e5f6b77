"""States of models, copied and compared."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["hooks_of", "same", "tensors_in", "values"]


def values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal bit for bit, under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def hooks_of(model: nn.Module) -> list[str]:
    """Every hook on a model's modules and parameters, as "place: kind", for each one that is there."""
    found = []
    for name, module in model.named_modules():
        for kind, hooks in vars(module).items():
            if kind.endswith("_hooks") and isinstance(hooks, Mapping):
                found += [f"{name}: {kind}"] * len(hooks)
    for name, parameter in model.named_parameters():
        for kind in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            found += [f"{name}: {kind}"] * len(getattr(parameter, kind, None) or ())
    return found


def tensors_in(thing: object) -> list[Tensor]:
    """Every tensor that an object holds, in its attributes and those of what it holds, each once; a model's are its own."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    left = [thing]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, nn.Module | type):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            found[id(one)] = one
        elif isinstance(one, Mapping):
            left += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            left += one
        elif type(one).__module__.startswith("d90."):
            names = [*getattr(one, "__dict__", {}), *getattr(type(one), "__slots__", ())]
            left += [getattr(one, name) for name in names if hasattr(one, name)]
    return list(found.values())
