"""Calls that would do nothing under a Subspace give a warning: an optimizer over the model's weights, and clipping of their gradients.

Their gradients are folded into theta and freed, so neither would find any. torch has a hook before every optimizer's step;
for clipping it has none, so its functions are wrapped, once, when the first Subspace is enabled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from d90.errors import InputError

__all__ = ["install"]


@functools.cache
def install() -> None:
    """Watch optimizers and clipping from here on, in the whole process."""
    register_optimizer_step_pre_hook(_before_step)
    inner = "_clip_grads_with_norm_"  # what clip_grad_norm_ calls, however a script has imported that
    names = ("clip_grad_norm_", "clip_grad_value_")
    for name in (inner, *names[1:]) if hasattr(clip_grad, inner) else names:
        wrapped = _told(getattr(clip_grad, name))
        setattr(clip_grad, name, wrapped)
        if hasattr(nn.utils, name):
            setattr(nn.utils, name, wrapped)


def _before_step(optimizer: Optimizer, args: object, kwargs: object) -> None:
    if any(_moved(p) for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "this optimizer holds weights that a d90.Subspace moves, whose gradients go into theta: its step would train "
            "nothing; expected one over space.parameters(). Make it so, or call release() to train the weights themselves"
        )


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(parameters: Tensor | Iterable[Tensor], *args: Any, **kwargs: Any) -> Any:
        given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if any(_moved(p) and p.grad is None for p in given):
            raise InputError(
                "got weights that a d90.Subspace moves, whose gradients are folded into theta and freed: nothing would be "
                "clipped; expected space.parameters()"
            )
        return function(given, *args, **kwargs)

    return call


def _moved(parameter: Any) -> bool:
    return getattr(parameter, "_d90_space", None) is not None
