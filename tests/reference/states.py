"""States of models, copied and compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["same", "values"]


def values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal bit for bit, under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
