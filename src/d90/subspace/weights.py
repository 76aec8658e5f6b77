"""The weights a Subspace moves: theta_0 (kept or not), what was last written over it, how it is put back, and how gradients fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from d90.errors import InputError, UnsupportedModelError
from d90.projections import Projection
from d90.projections.base import exact
from d90.projections.targets import Fold, Target

__all__ = ["Folding", "Weights"]

TOGETHER = 1 << 24  # numbers in the gradients that wait for one launch on a GPU: 64 MB in fp32


class Weights:
    """The tensors of a model as theta_0 + Delta, Delta_t = u_t lambda_i (R z)_t for each tensor t of layer i.

    Args:
        names, tensors: what is moved, in the projection's order of segments.
        units: u_t, everything that does not change with theta.
        layers: the layer i of each tensor.
        projection: R, one segment a tensor.
        padding: {number of a tensor: its row that stands for padding}, which does not move (`layout.padding_rows`).
        keep: hold a copy of theta_0. Without it each write adds what has changed, R (lambda' z' - lambda z), onto the
            weights as they are: no second copy of the model, fp32 only, and theta_0 is gone but for rounding.

    Raises:
        InputError: `keep=False` over weights that are not fp32.
    """

    def __init__(
        self,
        names: Sequence[str],
        tensors: Sequence[Tensor],
        units: Sequence[float],
        layers: Sequence[int],
        projection: Projection,
        keep: bool,
        padding: Mapping[int, int] | None = None,
    ) -> None:
        self.names, self.tensors, self.units, self.layers = names, tensors, units, layers
        self.projection = projection
        self.padding = dict(padding or {})
        self.dtypes = [tensor.dtype for tensor in tensors]
        self.shapes = [tensor.shape for tensor in tensors]
        for name, dtype in zip(names, self.dtypes, strict=True):
            if not keep and dtype != torch.float32:
                raise InputError(
                    f"keep_theta0=False: parameter '{name}' is {dtype}, expected fp32: in half precision the rounding "
                    "of each step would stay in the weights. Keep theta_0, or cast the model to fp32 first."
                )
        self.theta_0 = [_flat(tensor.detach().clone()) for tensor in tensors] if keep else None
        self.lambdas = [1.0] * (max(layers, default=-1) + 1)
        self.z = torch.zeros(projection.z_size, device=self.device)
        self.moved = self.at_base = False  # ever; whether theta_0 was put back since

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.tensors[0].device

    @property
    def factors(self) -> list[float]:
        """u_t lambda_i of each tensor, at what was last written."""
        return [unit * self.lambdas[i] for unit, i in zip(self.units, self.layers, strict=True)]

    def write(self, z: Tensor, lambdas: Sequence[float]) -> None:
        """Write theta_0 + Delta into every tensor, in place and in one pass."""
        flat = [
            t.data.view(-1) if t.is_contiguous() else _flat(t.detach().clone(memory_format=torch.contiguous_format))
            for t in self.tensors
        ]
        if self.theta_0 is not None:
            factors = [unit * lambdas[i] for unit, i in zip(self.units, self.layers, strict=True)]
            bases, zs = self.theta_0, [z] * len(flat)
        else:
            factors, bases = list(self.units), flat
            steps = [new * z - old * self.z for new, old in zip(lambdas, self.lambdas, strict=True)]
            zs = [steps[i] for i in self.layers]
        fixed = [(self.tensors[i].data[row], self.tensors[i].data[row].clone()) for i, row in self.padding.items()]
        self.projection.write([Target(i, bases[i], factors[i], zs[i], out) for i, out in enumerate(flat)])
        for tensor, out in zip(self.tensors, flat, strict=True):
            if not tensor.is_contiguous():
                tensor.data.copy_(out.view(tensor.shape))
            torch.autograd.graph.increment_version(tensor)  # so that a backward pass over the old weights is refused
        for place, value in fixed:
            place.copy_(value)
        self.z, self.lambdas, self.moved, self.at_base = z, list(lambdas), True, False
        torch.clear_autocast_cache()

    @exact
    def values(self, z: Tensor, lambdas: Sequence[float], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """theta_0 + Delta of every tensor, or of these, in memory of its own: the model stays as it is."""
        bases = self.bases()
        index = {name: i for i, name in enumerate(self.names)}
        out = {name: torch.empty_like(bases[name]) for name in (self.names if names is None else names)}
        self.projection.write(
            [Target(index[n], bases[n], self._factor(index[n], lambdas), z, value) for n, value in out.items()]
        )
        return {name: value.view(self.shapes[index[name]]) for name, value in out.items()}

    @exact
    def factored(self, z: Tensor, lambdas: Sequence[float]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """(left, middle, right) of each tensor, Delta = left middle right^T, under a projection of low rank."""
        found = {}
        for i, name in enumerate(self.names):
            left, middle, right = self.projection.factored(z, i)
            found[name] = left, middle * self._factor(i, lambdas), right
        return found

    def _factor(self, index: int, lambdas: Sequence[float]) -> float:
        return self.units[index] * lambdas[self.layers[index]]

    @exact
    def expected(self, index: int) -> Tensor | None:
        """What tensor `index` should hold, flat: computed again. None where theta_0 was not kept."""
        self.check_dtypes()
        if self.theta_0 is None:
            return None
        base = self.theta_0[index]
        if self.at_base or not self.moved:
            return base
        out = torch.empty_like(base)
        self.projection.write([Target(index, base, self.factors[index], self.z, out)])
        if index in self.padding:
            shape, row = self.shapes[index], self.padding[index]
            out.view(shape)[row] = base.view(shape)[row]
        return out

    @torch.no_grad()
    def restore(self) -> None:
        """Put theta_0 back, bit for bit.

        Raises:
            InputError: theta_0 was not kept, and the weights have moved.
        """
        if self.theta_0 is not None:
            for tensor, base in zip(self.tensors, self.theta_0, strict=True):
                tensor.copy_(base.view(tensor.shape))
            self.at_base = True
        elif self.moved:
            raise InputError(
                "this Subspace was made with keep_theta0=False and has moved the weights: theta_0 is not there to give back, "
                "expected a copy of it. Load the base model again; or, for theta_0 within rounding, call space.theta.data.zero_() "
                "and then space.merge()."
            )

    def bases(self) -> dict[str, Tensor]:
        """theta_0 by name, flat.

        Raises:
            InputError: theta_0 was not kept, and the weights have moved.
        """
        if self.theta_0 is None and self.moved:
            raise InputError("theta_0 was not kept (keep_theta0=False) and the weights have moved: load the base again")
        bases = self.theta_0 or [tensor.detach().reshape(-1) for tensor in self.tensors]
        return dict(zip(self.names, bases, strict=True))

    def check_shapes(self) -> None:
        """Refuse a model whose tensors were resized in place.

        Raises:
            UnsupportedModelError: a parameter has another shape than when the Subspace was made.
        """
        for name, tensor, shape in zip(self.names, self.tensors, self.shapes, strict=True):
            if tensor.shape != shape:
                raise UnsupportedModelError(
                    f"parameter '{name}' was resized from {tuple(shape)} to {tuple(tensor.shape)} under a Subspace; expected the shape "
                    "it was made for. Likely cause: resize_token_embeddings(). Load the base again, resize it, and make the Subspace then."
                )

    def check_dtypes(self) -> None:
        """Refuse a model that was cast, for its exact weights are gone.

        Raises:
            UnsupportedModelError: a parameter has another type than when the Subspace was made.
        """
        for name, tensor, dtype in zip(self.names, self.tensors, self.dtypes, strict=True):
            if tensor.dtype != dtype:
                raise UnsupportedModelError(
                    f"parameter '{name}' was cast from {dtype} to {tensor.dtype} under a Subspace; expected no cast. "
                    "Call release() on a model of its first type, cast it, and make the Subspace again."
                )

    def follow(self) -> None:
        """Follow a model that was moved to another device."""
        if self.theta_0 is not None:
            self.theta_0 = [base.to(self.device) for base in self.theta_0]
        self.z = self.z.to(self.device)


class Folding:
    """The gradients of one backward pass, folded into z-space as they come.

    On the CPU each is folded and freed at once. On a GPU a launch costs more than a small gradient's fold does, so they wait until they
    are `TOGETHER` numbers.

    Args:
        weights: whose gradients these are, at what was last written.
        m: how many lambdas are trained; 0 for none.
    """

    def __init__(self, weights: Weights, m: int) -> None:
        self._weights, self._m = weights, m
        self._total = weights.projection.new_z_gradient(weights.device)
        self._lambdas = torch.zeros(m, dtype=torch.float64, device=weights.device)
        self._waiting: list[Fold] = []
        self._size = 0
        self._rows: Tensor | None = None  # sums of each layer, where gradients wait and lambdas are trained

    def add(self, index: int, grad: Tensor) -> None:
        """The gradient of tensor `index`."""
        weights = self._weights
        if index in weights.padding:  # an embedding gives its padding none, but an output matrix tied to it does
            grad = _without_row(grad, weights.padding[index])
        flat = grad if grad.is_sparse else grad.reshape(-1)
        if grad.is_sparse or not weights.projection.folds_together(flat):
            self._fold(index, flat)
            return
        layer, unit = weights.layers[index], weights.units[index]
        row, factor = (layer, unit) if self._m else (0, unit * weights.lambdas[layer])
        self._waiting.append(Fold(index, flat, factor, row))
        self._size += grad.numel()
        if self._size >= TOGETHER:
            self._fold_waiting()

    @exact
    def finish(self) -> tuple[Tensor, Tensor]:
        """dL/dz (z_size,) and dL/dlambda (m,), fp64."""
        self._fold_waiting()
        if self._rows is not None:
            # dL/dlambda_i = c sigma <g, (P theta)_t> = c sigma <P_t^T g, z>, summed over the layer: no second pass over g
            self._lambdas += self._rows @ self._weights.z.double()
            self._total += (
                torch.tensor(self._weights.lambdas, dtype=torch.float64, device=self._total.device) @ self._rows
            )
        return self._total, self._lambdas

    @exact
    def _fold_waiting(self) -> None:
        if self._waiting:
            if self._m and self._rows is None:
                self._rows = self._total.new_zeros(self._m, len(self._total))
            self._weights.projection.fold_together(
                self._waiting, self._total[None] if self._rows is None else self._rows
            )
        self._waiting, self._size = [], 0

    @exact
    def _fold(self, index: int, grad: Tensor) -> None:
        weights, projection = self._weights, self._weights.projection
        part = projection.new_z_gradient(self._total.device)
        if grad.is_sparse:
            grad = grad.coalesce()
            projection.fold_sparse(grad.indices()[0], grad.values(), grad.shape, index, part)
        else:
            projection.fold_segment(grad, index, part)
        if self._m:
            self._lambdas[weights.layers[index]] += weights.units[index] * (part @ weights.z.double())
        self._total.add_(part, alpha=weights.units[index] * weights.lambdas[weights.layers[index]])


def _without_row(grad: Tensor, row: int) -> Tensor:
    if not grad.is_sparse:
        return grad.index_fill(0, torch.tensor([row], device=grad.device), 0)
    grad = grad.coalesce()
    grad._values().masked_fill_((grad._indices()[0] == row)[:, None], 0)  # ours alone: it was taken from the parameter
    return grad


def _flat(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1)
