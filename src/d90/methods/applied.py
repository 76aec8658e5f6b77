"""A method, and the subspace over it if any, put on a model: what a run trains, saves, merges and takes off again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from d90.methods.base import Applied, Context
from d90.methods.direct import Direct, Trainable
from d90.subspace import file as tune_file
from d90.subspace.subspace import Subspace

if TYPE_CHECKING:
    from d90.methods.spec import Spec

__all__ = ["AppliedMethod", "Counts", "apply", "load"]


@dataclass(frozen=True)
class Counts:
    """What a method costs, in numbers.

    Attributes:
        moved: D, the weights that move.
        trained: the numbers an optimizer holds: `moved`, or d in a subspace.
        head: how many of `moved` belong to the task's own head.
        stored: the numbers a file holds.
        added: the weights the model has more at inference; 0 after a merge.
        adds: the same in words.
    """

    moved: int
    trained: int
    head: int
    stored: int
    added: int
    adds: str


@dataclass
class AppliedMethod:
    """`trained` is what an optimizer moves; `release()` gives the model back untouched."""

    spec: Spec
    applied: Applied
    trained: Trainable

    @property
    def model(self) -> nn.Module:
        """The model, with the method on it."""
        return self.applied.model

    def save(self, path: str | os.PathLike[str], recipe: str = "-", dtype: str = "fp32") -> None:
        """Write the tune; `dtype` is what a subspace's theta is stored in."""
        self.trained.save(path, recipe, dtype)

    def release(self) -> nn.Module:
        """Take everything off: weights, modules, gradients and flags are then as they were found."""
        self.trained.release()
        return self.applied.remove()

    def merge(self) -> nn.Module:
        """Leave a plain model of the base's shape with the same outputs; this object is then spent.

        Raises:
            InputError: the method puts modules in that no weight of the base can stand for.
        """
        if not self.spec.method.merges:
            raise self.spec.method.no_merge()
        if isinstance(self.trained, Subspace):
            self.trained.merge()
        return self.applied.merge()


def apply(spec: Spec, model: nn.Module, seed: int = 0, context: Context | None = None) -> AppliedMethod:
    """Put a method on a model, and a subspace over what it moves; `seed` draws P and the method's own weights.

    Raises:
        InputError: the method does not fit the model; the model is then as it was.
    """
    context = replace(context or Context(), seed=seed)
    applied = spec.method.apply(model, context)
    try:
        trained = (
            spec.space.apply(model, seed, context.step_rule)
            if spec.space
            else Direct(model, applied.stored, applied.base)
        )
    except BaseException:
        applied.remove()
        raise
    return AppliedMethod(spec, applied, trained)


def load(spec: Spec, path: str | os.PathLike[str], model: nn.Module, seed: int = 0) -> AppliedMethod:
    """Lay a saved tune over its base model.

    Raises:
        InputError: an unsound file, another base model, or tensors that are not this method's; the model is then as it was.
    """
    tensors = tune_file.read(path)[1]
    if spec.space is None and spec.method.leaves_weights:
        applied = Applied.of(model, set(tensors))
    else:
        applied = spec.method.apply(model, Context(seed, stored=tensors))
    try:
        if spec.space is None:
            direct = Direct(model)
            direct.restore(path)
            return AppliedMethod(spec, applied, direct)
        return AppliedMethod(spec, applied, Subspace.load(path, model))
    except BaseException:
        applied.remove()
        raise


def counts(spec: Spec, applied: Applied) -> Counts:
    """Count what a method on a model moves, stores and adds; works on the meta device."""
    named = dict(applied.model.named_parameters())
    heads = {id(applied.flags[name][0]) for name in applied.head}
    found = {id(parameter) for parameter, _ in applied.flags.values()}
    moving = [p for p in named.values() if p.requires_grad]
    moved = sum(p.numel() for p in moving)
    head = sum(p.numel() for p in moving if id(p) in heads)
    stored = moved
    if applied.stored is not None:
        stored = sum(t.numel() for t in applied.stored().values())
    trained = moved
    if spec.space is not None and spec.space.d is not None:
        trained = stored = spec.space.d + (head if spec.space.options.head == "outside" else 0)
    masks = (m for m in applied.model.modules() if getattr(m, "belongs_to_tune", False))
    stored += sum(buffer.numel() for mask in masks for buffer in mask.buffers(recurse=False))
    added = 0 if spec.method.merges else sum(p.numel() for p in moving if id(p) not in found)
    return Counts(moved, trained, head, stored, added, spec.method.adds)
