"""How a model is put together, and the way back to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["holders", "module_state", "plain"]


def module_state(model: nn.Module) -> Callable[[], None]:
    """What puts every module, parameter and attribute back where it is now; values of weights are left alone."""
    held = [(m, dict(m._modules), dict(m._parameters), dict(m._buffers), set(vars(m))) for m in model.modules()]

    def give_back() -> None:
        for module, modules, parameters, buffers, attributes in held:
            for place, old in (
                (module._modules, modules),
                (module._parameters, parameters),
                (module._buffers, buffers),
            ):
                place.clear()  # refilled, not replaced: the order is that of the state dict
                place.update(old)  # type: ignore[arg-type]
            for name in set(vars(module)) - attributes:
                delattr(module, name)

    return give_back


def holders(model: nn.Module, parameter: nn.Parameter) -> list[tuple[str, nn.Module, str]]:
    """(module's name, module, attribute) of every place that holds this very parameter: two or more where it is tied."""
    return [
        (name, module, key)
        for name, module in model.named_modules()
        for key, held in module._parameters.items()
        if held is parameter
    ]


def plain(module: nn.Module, key: str) -> nn.Parameter:
    """A module's own parameter, also where a parametrisation stands before it."""
    parts = getattr(module, "parametrizations", {})
    return parts[key].original if key in parts else module.get_parameter(key)
