"""A method applied to a copy of the base that shares its weights: what turns a tune's file into changes of layers.

Tunes of one method, one seed and one subspace share a frame: P, the base's fingerprint and the method's own first weights are made
once, and each further tune costs its own numbers alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.methods import Context, Spec
from d90.methods.base import Applied
from d90.projections import resolve
from d90.serving.changes import Changes, changes_of, find_places, with_factors
from d90.subspace import file as tune_file
from d90.subspace import layout
from d90.subspace.buffers import PREFIX
from d90.subspace.fingerprint import Base, base_of, earlier_weights
from d90.subspace.subspace import Subspace

__all__ = ["Frame"]

HEAD = "head:"  # before the name of a head's tensor in a tune


class Frame:
    """A method on the base, and the subspace over it if the tunes have one.

    Args:
        model: the base; it stays as it is.
        spec, seed: the method, and the seed of the run.
        header, tensors, path: the first tune of the kind.
        called_head: whether a head is what is called like one, as for tunes of before (`layout.mark_called_head`).

    Raises:
        InputError: the method does not fit the model, or moves what one batch cannot have many of.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: Spec,
        seed: int,
        header: tune_file.Header,
        tensors: Mapping[str, Tensor],
        path: object,
        called_head: bool = False,
    ) -> None:
        shadow = _sharing(model)
        if called_head:
            layout.mark_called_head(shadow)
        direct = header.structure == "direct"
        if direct and spec.method.leaves_weights:
            self._applied = Applied.of(shadow, set(tensors))
        else:
            self._applied = spec.method.apply(shadow, Context(seed, stored=tensors))
        low_rank = not direct and resolve(header.options.projection)[0].low_rank
        self._places = find_places(self._applied, path, low_rank)
        _check_heads(shadow, tensors, path)
        self._found: Base | str = earlier_weights(shadow.named_parameters()) if header.format < 3 else base_of(shadow)
        tune_file.check_base(header, self._found, path)
        self._space: Subspace | None = None
        self._base = {name: parameter.detach() for name, parameter in layout.trainable(shadow).items()}
        if not direct:
            heads = [name.removeprefix(HEAD) for name in tensors if name.startswith(HEAD)]
            d = tune_file.theta_of(header, dict(tensors), path).numel()
            self._space = Subspace(shadow, d, options=header.options, head_names=heads)
            self._space.disable()
            self._places = with_factors(self._places, self._space) if low_rank else self._places
            self._draws = self._space.projection.checksum()
        self._factored = {place.name for place in self._places if place.part == "middle"}

    @torch.no_grad()
    def changes(self, header: tune_file.Header, tensors: Mapping[str, Tensor], path: object) -> Changes:
        """What a tune changes, layer by layer.

        Raises:
            InputError: a tune of another base, of another P, or with other tensors than the method trains.
        """
        tune_file.check_base(header, self._found, path)
        buffers = sorted(name for name in tensors if name.startswith(PREFIX))
        if buffers:
            raise InputError(
                f"'{path}' carries '{buffers[0]}', and the rows of one batch share the model's buffers; expected none. "
                "Switch to it with bank.use()"
            )
        values = self._values(header, tensors, path)
        made = {name: tensor for name, tensor in self._base.items() if name not in self._factored}
        if values.keys() != made.keys() or any(values[n].shape != t.shape for n, t in made.items()):
            raise InputError(
                f"'{path}' does not hold the {len(self._base)} tensors that its method trains on this model"
            )
        middles = {} if not self._factored else self._middles(header, tensors, path)
        return changes_of(self._places, self._base, values, middles)

    def _middles(self, header: tune_file.Header, tensors: Mapping[str, Tensor], path: object) -> Mapping[str, Tensor]:
        assert self._space is not None
        place = next(iter(self._base.values()))
        theta = tune_file.theta_of(header, dict(tensors), path).to(place.device)
        return {name: middle.to(place.dtype) for name, (_, middle, _) in self._space.factored(theta).items()}

    def _values(self, header: tune_file.Header, tensors: Mapping[str, Tensor], path: object) -> Mapping[str, Tensor]:
        device = next(iter(self._base.values())).device
        if self._space is None:
            return {name: tensor.to(device) for name, tensor in tensors.items()}
        if header.draws != self._draws:
            raise InputError(
                f"'{path}': P is another one here (checksum {self._draws}, file {header.draws}); its rows would be wrong. "
                "Likely cause: other weights are trainable (requires_grad) here than in training."
            )
        theta = tune_file.theta_of(header, dict(tensors), path).to(device)
        heads = {n.removeprefix(HEAD): tensor.to(device) for n, tensor in tensors.items() if n.startswith(HEAD)}
        inside = [name for name in self._base if name not in self._factored and name not in heads]
        return {**self._space.values(theta, inside), **heads}


def _sharing(model: nn.Module) -> nn.Module:
    """A copy of the modules whose parameters are others of the same memory, so that flags and insertions stay in the copy."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _check_heads(model: nn.Module, tensors: Mapping[str, Tensor], path: object) -> None:
    """Refuse a head of another size in words of its own: the fingerprints would only say that the bases differ."""
    have = dict(model.named_parameters())
    for name, tensor in tensors.items():
        place = have.get(name.removeprefix(HEAD))
        if place is not None and place.shape != tensor.shape:
            raise InputError(
                f"'{path}': its '{name.removeprefix(HEAD)}' has shape {tuple(tensor.shape)}, this model's has {tuple(place.shape)}; "
                "expected one size, for the rows of a batch share it. Open its base with its own labels, in a bank of its own"
            )
