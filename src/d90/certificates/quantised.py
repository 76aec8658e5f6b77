"""A subspace whose d numbers take few values, trained so that they do: both the numbers and the values learn.

    theta = v[nearest(w)]            w (d,) latent, v (L,) values rounded to bf16
    dL/dw = dL/dtheta                straight through (Bengio, Leonard, Courville 2013)
    dL/dv_l = sum of dL/dtheta over the coordinates that take v_l

Lotfi et al. 2022, section 4.2, train theta's levels in the same way before they are coded. With a shared codebook
(`d90.analysis.coding.shared`) the values stay as they are, and w alone learns.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from d90.analysis.coding import Quantised, kmeans, shared
from d90.options.certificate import Codebook
from d90.subspace.subspace import Subspace

__all__ = ["OverTheta", "QuantisedSpace"]

_AnyOptimizer = TypeVar("_AnyOptimizer", bound=Optimizer)


class OverTheta(ABC):
    """Trains parameters of its own of which a `Subspace`'s theta is a function, in the place of theta.

    Args:
        space: over its model; its theta is written from here.
    """

    def __init__(self, space: Subspace) -> None:
        self.space, self.model = space, space.model

    def attach(self, optimizer: _AnyOptimizer) -> _AnyOptimizer:
        """Before a step theta's gradient becomes that of these parameters; after it theta follows them."""
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        return optimizer

    def save(self, path: str | os.PathLike[str], recipe: str = "-", dtype: str = "fp32") -> None:
        """Write the subspace's file, with theta as it is looked at between steps."""
        self.flush()
        self.space.save(path, recipe, dtype)

    def release(self) -> nn.Module:
        """Give the model back untouched."""
        return self.space.release()

    @abstractmethod
    def flush(self) -> None:
        """Write theta, and through it the weights."""

    @abstractmethod
    def _hand_over(self, gradient: Tensor) -> None:
        """Give the parameters their gradients; `gradient` is theta's."""

    @abstractmethod
    def _follow(self) -> None:
        """Write theta alone."""

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        gradient = self.space.theta.grad
        if gradient is not None:
            self.space.theta.grad = None
            self._hand_over(gradient)

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self._follow()


class QuantisedSpace(OverTheta):
    """Trains like the `Subspace` under it; `quantised()` is what is coded.

    Args:
        space: over its model; its theta is written from here.
        levels: how many values theta may take at most, at first those of k-means on the theta it has.
        codebook: "own": the values learn and are sent; "shared": the values of the shared step nearest to theta.
    """

    def __init__(self, space: Subspace, levels: int, codebook: Codebook = "own") -> None:
        theta = space.theta.detach().cpu()
        self._found = kmeans(theta, levels) if codebook == "own" else shared(theta, levels)
        super().__init__(space)
        self.latent = nn.Parameter(space.theta.detach().clone())
        self.values = nn.Parameter(self._found.values.to(space.theta.device), requires_grad=codebook == "own")
        self.flush()

    def parameters(self) -> Iterator[nn.Parameter]:
        """w, then v where it learns."""
        yield self.latent
        if self.values.requires_grad:
            yield self.values

    def quantised(self) -> Quantised:
        """theta as symbols and the values that are used."""
        values, symbols = self._nearest()
        if self._found.kind == "shared":
            return replace(self._found, symbols=symbols.cpu())
        used, numbers = torch.unique(values[symbols], return_inverse=True)
        return Quantised("bf16", numbers.cpu(), used.cpu())

    @torch.no_grad()
    def flush(self) -> None:
        """Write theta, and through it the weights."""
        values, symbols = self._nearest()
        self.space.theta.copy_(values[symbols])
        self.space.flush()

    def _nearest(self) -> tuple[Tensor, Tensor]:
        values = self.values.detach()
        values = values if self._found.kind == "shared" else values.to(torch.bfloat16).float()
        return values, (self.latent.detach()[:, None] - values).abs().argmin(dim=1)

    def _hand_over(self, gradient: Tensor) -> None:
        self.latent.grad = gradient
        if self.values.requires_grad:
            self.values.grad = torch.zeros_like(self.values).index_add_(0, self._nearest()[1], gradient)

    def _follow(self) -> None:
        values, symbols = self._nearest()
        self.space.theta.copy_(values[symbols])
