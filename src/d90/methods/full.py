"""Full fine-tuning: every weight moves."""

from __future__ import annotations

from torch import nn

from d90.methods.base import Method

__all__ = ["Full"]


class Full(Method):
    """theta = theta_0 + Delta, Delta in R^D."""

    name = "full"
    summary = "every weight moves"

    def chosen(self, model: nn.Module) -> set[str]:
        return {name for name, _ in model.named_parameters()}
