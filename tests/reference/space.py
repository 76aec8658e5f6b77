"""The subspace, slow: dense P, functional_call, and autograd through everything. Nothing here imports d90."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.reference.dense import matrix


class SlowSpace:
    """theta_t = theta_0,t + c lambda_i sigma_t (P theta)_t over the named tensors, each with its layer (for "said").

    `layers` is empty for "did". `rule` is what the step rule sets: (d -> c, the unit of a lambda).
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        d: int,
        projection: str,
        scale: str,
        layers: Sequence[str],
        seed: int,
        rule: tuple[Callable[[int], float], float],
    ) -> None:
        self.model, self.names, self.d, self.layers = model, list(names), d, list(layers)
        parameters = dict(model.named_parameters())
        self.base = [parameters[name].detach().clone() for name in names]
        order = list(dict.fromkeys(layers))
        self.layer_index = [order.index(layer) for layer in layers]
        self.m = len(order)
        self.coordinates = d - self.m
        sizes = tuple(tensor.numel() for tensor in self.base)
        shapes = tuple(tuple(tensor.shape) for tensor in self.base)
        self.P = torch.from_numpy(matrix(projection, self.coordinates, shapes, seed)).float()
        c, self.lambda_step = rule[0](self.coordinates), rule[1]
        sigmas = [sigma(scale, tensor, sum(sizes), self.coordinates) for tensor in self.base]
        c *= balance(sigmas, sizes, self.coordinates)
        self.factors = [c * one for one in sigmas]

    def weights(self, theta: Tensor) -> dict[str, Tensor]:
        moved = self.P @ theta[: self.coordinates]
        lambdas = 1 + self.lambda_step * theta[self.coordinates :]
        out, start = {}, 0
        for t, (name, base) in enumerate(zip(self.names, self.base, strict=True)):
            part = moved[start : start + base.numel()].reshape(base.shape)
            start += base.numel()
            factor = self.factors[t] * (lambdas[self.layer_index[t]] if self.m else 1.0)
            out[name] = base + factor * part
        return out

    def loss(self, theta: Tensor, loss_of: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        weights = self.weights(theta)
        return loss_of(lambda x: functional_call(self.model, weights, (x,), tie_weights=True), inputs)


def balance(sigmas: Sequence[float], sizes: Sequence[int], d: int) -> float:
    """Step rule 2: the mean square that a standard normal theta moves all weights by is that of unit columns inside each tensor."""
    moved = sum(one**2 * n / sum(sizes) for one, n in zip(sigmas, sizes, strict=True))
    return math.sqrt(sum(min(n, d) / d for n in sizes if n) / moved)


def sigma(scale: str, base: Tensor, total: int, d: int) -> float:
    """As engine.md 4 and the docstrings say it."""
    if scale == "global" or base.numel() == 0:
        return 1.0
    unit = math.sqrt(total / max(base.numel(), d))
    if scale == "tensor":
        return unit
    norm = math.sqrt(sum(float(w) ** 2 for w in base.flatten()))
    if norm == 0:
        rows = base.shape[0] if base.dim() > 1 else 1
        return unit * math.sqrt(rows)
    return unit * 2.0 ** round(math.log2(norm))
