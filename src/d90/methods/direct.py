"""Parameters trained as they are, with the surface of `Subspace`: what training needs of either."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from d90.errors import InputError
from d90.subspace import file as tune_file
from d90.subspace import layout, support
from d90.subspace.buffers import PREFIX, Buffers
from d90.subspace.fingerprint import Base, base_of, earlier_weights

__all__ = ["Direct", "Trainable"]


AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


class Trainable(Protocol):
    """What the training loop needs of a `Subspace` or of `Direct`."""

    model: nn.Module

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the optimizer moves."""

    def attach(self, optimizer: AnyOptimizer) -> AnyOptimizer:
        """Prepare an optimizer over `parameters()`."""

    def flush(self) -> None:
        """Make the model's weights current."""

    def save(self, path: str | os.PathLike[str], recipe: str = "-", dtype: str = "fp32") -> None:
        """Write the tune."""

    def release(self) -> nn.Module:
        """Give the model back untouched."""


class Direct:
    """The model's parameters with `requires_grad`, trained in place; `release()` puts the old values back.

    Args:
        model: with flags that say what moves.
        stored: what a file holds in place of these parameters, by name.
        base: fingerprint of the model that `stored` belongs to.
    """

    def __init__(
        self, model: nn.Module, stored: Callable[[], dict[str, Tensor]] | None = None, base: Base | None = None
    ) -> None:
        support.check_supported(model)
        self.model = model
        self._named = layout.trainable(model)
        self._before = {name: p.detach().clone() for name, p in self._named.items()}
        self._buffers = Buffers(model)
        self._grads = {name: p.grad for name, p in self._named.items()}
        for parameter in self._named.values():
            parameter.grad = None
        self._stored, self._base = stored, base

    @property
    def D(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self._named.values())

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trained parameters, tied ones once."""
        yield from self._named.values()

    def attach(self, optimizer: AnyOptimizer) -> AnyOptimizer:
        """Nothing to do: the optimizer holds the weights."""
        return optimizer

    def flush(self) -> None:
        """Nothing to do: the parameters are the weights."""

    def base(self) -> Base:
        """The four parts of the base model's fingerprint, of the weights before training."""
        if self._base is None:
            with self._buffers.at_start():
                self._base = base_of(self.model, self._before)
        return self._base

    def save(self, path: str | os.PathLike[str], recipe: str = "-", dtype: str = "fp32") -> None:
        """Write the trained tensors by name, as they are.

        Raises:
            InputError: a dtype other than "fp32": only theta of a subspace is rounded.
        """
        tune_file.check_dtype(dtype, subspace=False)
        base = self.base()
        header = tune_file.Header("direct", base=base.digest, recipe=recipe, tokenizer=base.tokenizer)
        tune_file.write(path, header, self._held())

    @torch.no_grad()
    def restore(self, path: str | os.PathLike[str]) -> None:
        """Load what `save` wrote.

        Raises:
            InputError: another base model, or other tensors than this method trains.
        """
        header, tensors = tune_file.read(path)
        places, buffers = self._named, {name for name in tensors if name.startswith(PREFIX)}
        if header.structure != "direct" or places.keys() != tensors.keys() - buffers:
            raise InputError(f"'{path}' does not hold the {len(places)} tensors that this method trains on this model")
        earlier = ((name, self._before.get(name, p)) for name, p in self.model.named_parameters())
        tune_file.check_base(header, self.base() if header.format > 2 else earlier_weights(earlier), path)
        for name, place in places.items():
            if place.shape != tensors[name].shape:
                raise InputError(
                    f"'{path}': '{name}' has shape {tuple(tensors[name].shape)}, expected {tuple(place.shape)}"
                )
        self._buffers.check(buffers, {name: tensors[name].shape for name in buffers}, path)
        for name, place in places.items():
            place.copy_(tensors[name])
        self._buffers.write({name.removeprefix(PREFIX): tensors[name] for name in buffers})

    @torch.no_grad()
    def release(self) -> nn.Module:
        """Put weights, buffers and gradients back as they were found."""
        for name, parameter in self._named.items():
            parameter.copy_(self._before[name])
            parameter.grad = self._grads[name]
        self._buffers.restore()
        return self.model

    def _held(self) -> dict[str, Tensor]:
        weights: Mapping[str, Tensor] = self._named if self._stored is None else self._stored()
        return {**weights, **self._buffers.carried()}


Snapshot = tuple[list[Tensor], dict[str, Tensor | None]]


def snapshot(trained: Trainable) -> Snapshot:
    """A copy of what is trained and of the model's buffers: the best evaluation's, for `restore`."""
    return [tensor.detach().clone() for tensor in trained.parameters()], Buffers(trained.model).start


@torch.no_grad()
def restore(trained: Trainable, saved: Snapshot) -> None:
    """Undo what happened since `snapshot`."""
    tensors, buffers = saved
    for tensor, old in zip(trained.parameters(), tensors, strict=True):
        tensor.copy_(old)
    Buffers(trained.model).write(buffers)
    trained.flush()
