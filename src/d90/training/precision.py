"""The precision of a run: fp32, or bf16 autocast where the device has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from d90.training.batches import device_of
from d90.training.recipe import Recipe, bf16_is_fast

if TYPE_CHECKING:
    from d90.training.loop import Data

__all__ = ["autocast", "precision_of"]


def precision_of(recipe: Recipe, data: Data) -> str:
    """fp32 or bf16: "auto" takes bf16 for texts where the device has it."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if data.task.is_text and bf16_is_fast(device_of(data.model.module).type) else "fp32"


def autocast(module: nn.Module, precision: str) -> torch.autocast:
    """Where the model is, in the run's precision."""
    return torch.autocast(device_of(module).type, dtype=torch.bfloat16, enabled=precision == "bf16")
