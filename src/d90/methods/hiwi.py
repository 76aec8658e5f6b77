"""HiWi: an adapter on the pretrained weights, thrown away after training (Liao et al. 2023, section 3.2).

    theta' = theta + f(theta W_down) W_up        W_up = 0 at the start, so theta' = theta

Over the biases or the weights of the feed-forward layers, an adapter of width r each; a bias is a row of n numbers. Only
theta' is kept: with biases a file holds them and the head, whatever the number trained, and inference costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from d90.errors import InputError
from d90.methods.base import Applied, Context, Inserting
from d90.methods.module_state import module_state
from d90.methods.targets import find_targets

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["HiWi"]


@dataclass(frozen=True)
class HiWi(Inserting):
    """`on` biases or weights of the `targets`, adapters of width `r`, `nonlinearity` f."""

    name: ClassVar[str] = "hiwi"
    summary: ClassVar[str] = "an adapter on the feed-forward biases or weights, thrown away at the end, and the head"
    leaves_weights: ClassVar[bool] = True
    over_packed: ClassVar[bool] = False

    on: Literal["bias", "weight"] = "bias"
    r: int = 16
    nonlinearity: Literal["relu", "gelu", "tanh", "none"] = "gelu"
    targets: str = "mlp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.r < 1:
            raise InputError(f"hiwi: got r={self.r}, expected a width of at least 1")

    def insert(self, applied: Applied, context: Context) -> None:
        from torch.nn.utils import parametrize

        from d90.methods.modules import WeightAdapter
        from d90.subspace.fingerprint import base_of

        model, on = applied.model, self.on
        found = {matrix.name: matrix.module._parameters.get(on) for matrix in find_targets(model, self.targets)}
        chosen = {name: parameter for name, parameter in found.items() if parameter is not None}
        if not chosen:
            raise InputError(
                f"'{self}' looked for parameters called '{on}' in the {len(found)} matrices of targets={self.targets}, and "
                "none has one (many decoders have no biases). Use hiwi:on=weight"
            )
        moving = {name: p for name, p in chosen.items() if p.is_meta or bool(p.detach().any())}
        if not moving:
            raise InputError(
                f"'{self}': all {len(chosen)} targeted tensors are zero, as '{next(iter(chosen))}.{on}'; expected pretrained ones, for "
                "f(0 W_down) = 0 has no gradient. Likely a model from scratch; use on=weight, or bitfit"
            )
        if not any(p.is_meta for p in model.parameters()):
            applied.base = base_of(model)
        named = {id(parameter): name for name, (parameter, _) in applied.flags.items()}
        give_back = module_state(model)
        applied.undo.append(give_back)
        folds: list[Callable[[], None]] = []
        kept: dict[str, tuple[nn.Module, str]] = {}
        for name, parameter in moving.items():
            applied.claim(self, [parameter])
            adapter = WeightAdapter(parameter, self.r, self.nonlinearity, f"{name}.{on}", context.seed)
            module = model.get_submodule(name)
            parametrize.register_parametrization(module, on, adapter, unsafe=True)
            applied.undo.append(partial(_off, module, on, False))
            folds.append(partial(_off, module, on, True))
            kept[named[id(parameter)]] = (module, on)
        applied.fold += [give_back, *folds]

        def stored() -> dict[str, Tensor]:
            heads = {name: applied.flags[name][0].detach() for name in applied.head}
            return {**{name: getattr(module, key).detach() for name, (module, key) in kept.items()}, **heads}

        applied.stored = stored


def _off(module: nn.Module, key: str, keep: bool) -> None:
    """Take the adapter off; with `keep`, theta' stays in the weight."""
    import torch
    from torch.nn.utils import parametrize

    original = module.parametrizations[key].original  # type: ignore[index,union-attr]
    if keep:
        with torch.no_grad():
            original.copy_(getattr(module, key))
    parametrize.remove_parametrizations(module, key, leave_parametrized=False)
