"""One live model that switches between tunes: theta_0 is held once, and each switch is one write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from d90.errors import InputError, UnsupportedModelError
from d90.subspace import file as tune_file
from d90.subspace import layout, support
from d90.subspace.buffers import Buffers
from d90.subspace.fingerprint import Base, base_of, earlier_weights
from d90.subspace.subspace import Subspace

__all__ = ["Switch", "check_no_space"]


class Switch:
    """theta_0, held once, and the live model that is now theta_0 + Delta of a tune.

    A switch writes the weights once, with nothing restored in between. Between switches the model is a plain one, with no hooks.

    Args:
        model: the base model, its `requires_grad` as in training.

    Raises:
        UnsupportedModelError: sharded, quantised, wrapped or meta-device models.
    """

    def __init__(self, model: nn.Module) -> None:
        support.check_supported(model)
        self.model = model
        self._base: dict[str, Tensor] | None = None  # theta_0, once it is needed
        self._buffers: Buffers | None = None  # the base's
        self._live: dict[str, Tensor] = {}  # what they were taken from
        self._fingerprints: dict[bool, Base | str] = {}  # of the base, as files of today and of formats 1 and 2 name it
        self._space: Subspace | None = None

    def write(self, header: tune_file.Header, tensors: dict[str, Tensor], path: object) -> None:
        """Write a tune that was read into the model.

        Raises:
            InputError: a tune of another base or over other weights, or a model that has an enabled Subspace of its own. The
                model is then as it was, its weights and gradients too.
            UnsupportedModelError: the model was cast since the first switch.
        """
        theta = tune_file.theta_of(header, tensors, path)
        check_no_space(self.model)
        if self._base is None:
            self._fingerprints = {}
        base = self._theta_0()
        tune_file.check_base(header, self._fingerprint(earlier=header.format < 3), path)
        space = self._space
        if space is None or (space.d, space.options) != (theta.numel(), header.options):
            space = self._build(theta.numel(), header, base)
        space.take(header, tensors, path)
        self._space = space

    @torch.no_grad()
    def release(self, written: bool) -> None:
        """Put theta_0 back, bit for bit, where a tune was written, and drop the copy of it."""
        if self._base is not None and written:
            for name, place in self._live.items():
                place.copy_(self._base[name])
            assert self._buffers is not None
            self._buffers.restore()
        self._base = self._buffers = self._space = None
        self._live = {}

    def _theta_0(self) -> dict[str, Tensor]:
        """The base, copied while no tune is in the model; it follows the model to another device."""
        places: dict[str, Tensor] = dict(layout.trainable(self.model))
        if self._base is None:
            self._buffers = Buffers(self.model)
            self._base = {n: p.detach().clone(memory_format=torch.contiguous_format) for n, p in places.items()}
        if places.keys() != self._base.keys() or any(places[n].shape != b.shape for n, b in self._base.items()):
            raise InputError(
                "other parameters are trainable, or of other shapes, than at this bank's first use(); expected the same. "
                "Put requires_grad back, or call release() before and make another Bank."
            )
        cast = next((name for name, base in self._base.items() if base.dtype != places[name].dtype), None)
        if cast is not None:
            raise UnsupportedModelError(
                f"'{cast}' was cast from {self._base[cast].dtype} to {places[cast].dtype} under a Bank; expected no cast. "
                "Load the base model, cast it, and make the Bank on it."
            )
        if any(base.device != places[name].device for name, base in self._base.items()):
            self._base = {name: base.to(places[name].device) for name, base in self._base.items()}
            self._space = None
        if any(place is not self._live.get(name) for name, place in places.items()):
            self._live, self._space = places, None  # replaced by others of the same shapes
        return self._base

    def _fingerprint(self, earlier: bool) -> Base | str:
        """The base's fingerprint, taken once."""
        if earlier not in self._fingerprints:
            base = self._theta_0()
            assert self._buffers is not None
            named = ((name, base.get(name, parameter)) for name, parameter in self.model.named_parameters())
            with self._buffers.at_start():
                self._fingerprints[earlier] = earlier_weights(named) if earlier else base_of(self.model, base)
        return self._fingerprints[earlier]

    def _build(self, d: int, header: tune_file.Header, base: dict[str, Tensor]) -> Subspace:
        """A disabled Subspace over theta_0, whatever tune the live weights hold."""
        grads = [(parameter, parameter.grad) for parameter in self.model.parameters()]
        with _standing_in(dict(layout.trainable(self.model)), base):
            try:
                space = Subspace(self.model, d, options=header.options)
                space.disable()
            finally:
                for parameter, grad in grads:
                    parameter.grad = grad
        space.share(base, self._buffers)
        return space


def check_no_space(model: nn.Module) -> None:
    """Refuse a model that has an enabled Subspace of its own.

    Raises:
        InputError: with what to do.
    """
    if getattr(model, "_d90_space", None) is not None:
        raise InputError("this model has an enabled Subspace; expected none. Call merge() or release() on it first")


@contextmanager
def _standing_in(places: dict[str, Tensor], base: dict[str, Tensor]) -> Iterator[None]:
    """Let the model's tensors be those of `base` for a while: pointers move, no weight is written."""
    live = {name: place.data for name, place in places.items()}
    try:
        for name, place in places.items():
            place.data = base[name]
        yield
    finally:
        for name, place in places.items():
            place.data = live[name]
