"""The modules that methods put into a model. Apart from the methods themselves, whose texts are read without torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from d90.models.fresh import draw

__all__ = ["Bottleneck", "Masked", "WeightAdapter"]

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}


class Bottleneck(nn.Module):
    """y -> y + up(f(down(norm(y))))."""

    def __init__(self, width: int, r: int, normed: bool, nonlinearity: str, like: Any) -> None:
        super().__init__()
        place = {"device": like.device, "dtype": like.dtype}
        self.norm = nn.LayerNorm(width, **place) if normed else nn.Identity()
        # skip_init: torch's own draws would move its generator
        self.down = nn.utils.skip_init(nn.Linear, width, r, **place)
        self.up = nn.utils.skip_init(nn.Linear, r, width, **place)
        self.nonlinearity = nonlinearity

    @torch.no_grad()
    def start(self, name: str, seed: int) -> None:
        """The weights at the start, drawn for the module of that name."""
        if self.down.weight.is_meta:
            return
        for parameter in (self.down.bias, self.up.bias, self.up.weight):
            parameter.zero_()
        drawn = draw(f"adapter.down:{name}", self.down.weight.shape, seed, uniform=True)
        self.down.weight.copy_(drawn / math.sqrt(self.down.in_features))

    def forward(self, y: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        given = y.to(self.down.weight.dtype)  # fp32 in a half-precision model
        change: Tensor = self.up(FUNCTIONS[self.nonlinearity](self.down(self.norm(given))))
        return y + change.to(y.dtype)

    def behind(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """Forward hook of the module it follows."""
        out: Tensor = self(output)
        return out


class WeightAdapter(nn.Module):
    """A parametrisation: theta + f(theta W_down) W_up; a bias is one row."""

    def __init__(self, theta: nn.Parameter, r: int, nonlinearity: str, name: str, seed: int) -> None:
        super().__init__()
        n = theta.shape[-1]
        self.down = nn.Parameter(theta.new_empty(n, r))
        self.up = nn.Parameter(theta.new_zeros(r, n))
        if not theta.is_meta:
            with torch.no_grad():
                self.down.copy_(draw(f"hiwi.down:{name}", self.down.shape, seed) / math.sqrt(n))
        self._f = FUNCTIONS[nonlinearity]

    def forward(self, theta: Tensor) -> Tensor:
        # theta' is a weight: rounded to bf16 by the run's autocast, it would lose what is learned
        with torch.autocast("cpu" if theta.is_meta else theta.device.type, enabled=False):
            return theta + self._f(theta @ self.down) @ self.up


class Masked(nn.Module):
    """A parametrisation: the tensor with `values` at `indices`."""

    indices: Tensor

    def __init__(self, parameter: nn.Parameter, indices: Tensor, stored: bool) -> None:
        super().__init__()
        self.belongs_to_tune = stored  # layout.running_statistics: its buffer goes into the file
        self.values = nn.Parameter(parameter.detach().reshape(-1)[indices.to(parameter.device)].clone())
        self.register_buffer("indices", indices.to(parameter.device, torch.int32), persistent=False)

    def forward(self, original: Tensor) -> Tensor:
        return original.reshape(-1).index_copy(0, self.indices.long(), self.values).view(original.shape)
