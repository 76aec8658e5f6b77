"""Weights that come from no checkpoint, drawn from our own bits, so that a file of d numbers can rebuild the model.

Every library draws a fresh head from torch's generator, which is not the same on every version and device. The stream
"init" is keyed by the parameter's name and the index, so the draw depends on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from d90.projections.philox import gaussians, name_block, uniforms

__all__ = ["draw", "initialise"]

CHUNK = 4096  # values in a block of the stream


def draw(name: str, shape: torch.Size, seed: int, uniform: bool = False) -> Tensor:
    """A tensor of the stream "init" for a name: standard Gaussian, or uniform on (-1, 1)."""
    count = shape.numel()
    blocks = (name_block(name) << 20) + torch.arange(-(-count // CHUNK))
    values = uniforms(seed, "init", blocks, CHUNK) * 2 - 1 if uniform else gaussians(seed, "init", blocks, CHUNK)
    return values.reshape(-1)[:count].reshape(shape)


@torch.no_grad()
def initialise(module: nn.Module, names: Iterable[str], seed: int, std: float | None = None) -> None:
    """Redraw the parameters with these names: weights Gaussian, biases 0, other vectors (norms) 1.

    Args:
        std: of the weights; None takes He's sqrt(2 / fan_in), for networks trained from scratch.
    """
    parameters = dict(module.named_parameters())
    for name in names:
        parameter = parameters[name]
        if name.rpartition(".")[2] == "bias":
            parameter.zero_()
        elif parameter.dim() < 2:
            parameter.fill_(1)
        else:
            scale = std if std is not None else math.sqrt(2 / parameter[0].numel())
            parameter.copy_(draw(name, parameter.shape, seed) * scale)
