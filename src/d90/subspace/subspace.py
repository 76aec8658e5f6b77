"""Training in a random subspace, in place, over any `nn.Module`.

    DID    theta_D = theta_0 + c sigma_t (P theta)_t                    for each tensor t
    SAID   theta_D = theta_0 + c lambda_i sigma_t (P theta)_t           t in layer i; d counts the lambdas

Before a forward pass the weights are written in place if theta has changed; in the backward pass each weight's gradient
is folded into d numbers and freed at once. So there is no autograd graph of the projection, and the optimizer sees d
numbers. Li et al. 2018, section 2 (DID); Aghajanyan et al. 2021, section 3 (SAID).
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from d90.errors import InputError
from d90.options.wrap import with_options
from d90.projections import Projection, build
from d90.projections.base import exact
from d90.subspace import file as tune_file
from d90.subspace import layout, support
from d90.subspace.buffers import PREFIX, Buffers, moved_attributes, plain_attributes
from d90.subspace.distributed import Exchange, digest, refuse_wrapped
from d90.subspace.fingerprint import Base, base_of
from d90.subspace.guard import Guard
from d90.subspace.hooks import LAMBDA_STEP, Hooks, refuse_pickling
from d90.subspace.options import SubspaceFields, SubspaceOptions
from d90.subspace.weights import Weights

__all__ = ["Subspace"]

_AnyOptimizer = TypeVar("_AnyOptimizer", bound=Optimizer)


class Subspace:
    """A d-dimensional random subspace over the trainable parameters of `model`.

    Example:
        >>> space = d90.Subspace(network, d=20)
        >>> space.theta.shape
        torch.Size([20])
        >>> network = space.release()  # as it was, bit for bit

    Args:
        model: any module; its parameters with `requires_grad` are moved, tied ones once.
        d: how many numbers are trained, lambdas included.
        options: everything else that fixes the subspace.
        keep_theta0: hold a copy of theta_0. Without it (fp32 only) there is no second copy of the model: each step adds
            P (theta_new - theta_old), and `release()` and `unmerge()` mean loading the base again.
        head_names: the parameters of a head that is outside; by default `layout.head_tensors`. A file names them.
        fields: those of `SubspaceOptions` as keywords, as structure="said", scale="global".

    `theta` (d,) starts at zero: first the coordinates, then the m lambdas as lambda - 1. `space.parameters()` gives it
    to an optimizer; the training loop over `model` is then an ordinary one. `torch.autograd.grad` fires no hook and
    does not fill `theta.grad`: use `backward()`. Reading `model.parameters()` directly between an optimizer step and a
    forward pass shows the weights as last written: call `flush()` first.

    Any module is given back by `release()` as it was, bit for bit: weights, buffers, gradients, flags and hooks. What the
    engine could not be right about is refused by name (`d90.subspace.support`, `d90.subspace.guard`): memory that two
    parameters share, and flags, weights or parameters that others change meanwhile. Torch's version counters do not see a
    change through `.data` or numpy: of a whole tensor it is noticed before the next write, of a few numbers perhaps not.

    Raises:
        InputError: d not above the number of lambdas, above D, or below 1; an unknown name.
        UnsupportedModelError: sharded, quantised, wrapped, meta-device, lazy, expanded or float8 weights; parameters that
            share memory; state that `get_extra_state` gives.
    """

    @with_options
    def __init__(
        self,
        model: nn.Module,
        d: int,
        *,
        options: SubspaceOptions = SubspaceOptions(),
        keep_theta0: bool = True,
        head_names: Iterable[str] | None = None,
        **fields: Unpack[SubspaceFields],
    ) -> None:
        self.model, self.d = layout.uncompiled(model), d
        self._choose_parameters(options, head_names)
        self.m = self._number_layers(options)
        shapes = [tuple(tensor.shape) for tensor in self._tensors]
        self.projection: Projection = build(options.projection, d - self.m, shapes, options.seed)
        self.D = self.projection.D
        self.options = replace(
            options,
            projection=f"{self.projection.name}:{self.projection.entries}",
            step_rule=1 if options.scale == "tensor" else options.step_rule,  # the rules agree there
        )
        self._weights = self._hold_weights(keep_theta0)
        self._hold_start()
        self.guard = Guard(self.model, self._names, self._tensors, self._head)
        self._hooks = Hooks(self, self._weights, list(self._head.values()))
        self._lock = threading.RLock()
        self.guard.note()
        self.enable()
        if self.model is not model:
            torch.compiler.reset()  # what was compiled before saw no hooks

    # --- how it is made --------------------------------------------------------------------------------------------

    def _choose_parameters(self, options: SubspaceOptions, head_names: Iterable[str] | None) -> None:
        """Which parameters move, and which are the head's outside."""
        model = self.model
        support.check_supported(model)
        support.check_no_overlap(model)
        if getattr(model, "_d90_space", None) is not None:
            raise InputError("this model already has a Subspace; expected one at a time. Call release() on the first")
        named = layout.trainable(model)
        if not named:
            raise InputError(
                "the model has no trainable parameters (all have requires_grad=False), expected at least one"
            )
        outside = set(head_names or support.head_outside(model, named)) if options.head == "outside" else set()
        self._names = [name for name in named if name not in outside]
        self._head = {name: named[name] for name in named if name in outside}
        self._tensors = [named[name] for name in self._names]

    def _number_layers(self, options: SubspaceOptions) -> int:
        """Which layer each parameter is of; m, the lambdas of "said"."""
        self.layer_names, definition = layout.layer_of(self.model, self._names, options.layer)
        self.layer_definition = definition if options.structure == "said" else "none (did)"
        if options.structure == "did":
            return 0
        m = len(dict.fromkeys(self.layer_names))
        if self.d <= m:
            raise InputError(
                f"got d={self.d}, expected more than {m}: 'said' spends one number on the lambda of each of {m} layers "
                f"(layer='{options.layer}') and needs at least one more. Raise d, or choose a coarser layer or structure='did'."
            )
        return m

    def _hold_weights(self, keep_theta0: bool) -> Weights:
        """The weights as theta_0 + Delta."""
        units = layout.units(self.options.scale, self._tensors, self.d - self.m, self.options.step_rule)
        order = {name: i for i, name in enumerate(dict.fromkeys(self.layer_names))}
        layers = [order[name] for name in self.layer_names]
        if not keep_theta0:
            support.check_renormed(self.model, dict(zip(self._names, self._tensors, strict=True)))
        still = layout.padding_rows(self.model, self._tensors)
        return Weights(self._names, self._tensors, units, layers, self.projection, keep_theta0, still)

    def _hold_start(self) -> None:
        """theta at zero, and what `unmerge` and `release` put back."""
        with torch.inference_mode(False):
            self.theta = nn.Parameter(torch.zeros(self.d, dtype=torch.float32, device=self._weights.device))
            self.buffers = Buffers(self.model)
            self._head_0 = {name: parameter.detach().clone() for name, parameter in self._head.items()}
        self._base: Base | None = None  # once it is known
        self._attributes_0 = plain_attributes(self.model)
        self._set_aside: tuple[dict[str, Tensor], dict[str, Tensor | None]] | None = None  # the tune's head and buffers
        self._grads_0 = [(p, p.grad) for p in (*self._tensors, *self._head.values())]
        self._written: Tensor | None = self.theta.detach().clone()
        self.writes = 0  # how often the weights were written

    # --- what the optimizer sees -----------------------------------------------------------------------------------

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained: theta, then the head's parameters where the head is outside."""
        yield self.theta
        yield from self._head.values()

    @property
    def lambdas(self) -> Tensor:
        """The m layer scales of "said" (1 at the start), in the order of `layer_names`; empty for "did"."""
        return 1 + LAMBDA_STEP * self.theta.detach()[self.d - self.m :]

    def attach(self, optimizer: _AnyOptimizer) -> _AnyOptimizer:
        """Prepare an optimizer: before each of its steps theta's gradient is averaged over the processes, d numbers and
        nothing else (before the first, 8 bytes that say whether all train the same).

        Each process counts once, as in DDP. Where batches differ in size, multiply a process's mean loss by its examples times
        processes over all examples; all processes must make the same number of steps.

        Raises:
            InputError: the optimizer does not hold `space.theta`.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if id(self.theta) not in held:
            raise InputError(
                "the optimizer does not hold this space's theta; expected one made over space.parameters()"
            )
        refuse_wrapped(self.model, self._tensors)
        inner: Optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has no hooks of its own
        inner.register_step_pre_hook(Exchange(self.parameters, lambda: digest(repr(self.header()), self.parameters())))
        return optimizer

    # --- the weights -----------------------------------------------------------------------------------------------

    @exact
    def flush(self) -> None:
        """Write theta_0 + Delta into the model's weights if theta is not what was last written."""
        with self._lock:  # of two threads, one writes
            self._flush()

    def _flush(self) -> None:
        # A fused optimizer and `.data` change theta without moving its version counter: compare the d numbers.
        weights, theta = self._weights, self.theta.detach()
        if weights.device != theta.device or weights.tensors[0].dtype != weights.dtypes[0]:
            theta = self._follow_model()
        self.guard.check_versions(weights.expected)
        if self._written is not None and torch.equal(theta, self._written):
            return
        weights.check_dtypes()
        self.guard.check_sample()
        theta = theta.clone()  # z may lie in it, and must not follow the parameter
        z = self.projection.prepare(theta[: self.d - self.m])
        if weights.theta_0 is None:
            if not bool(torch.isfinite(theta).all() and torch.isfinite(z).all()):
                raise InputError(
                    "theta holds NaN, infinity or numbers too large, and theta_0 was not kept (keep_theta0=False): once written, "
                    "the weights could not be brought back; expected finite numbers. Put theta back to what it was; the weights "
                    "are as last written."
                )
            self.base()  # the last moment to take it
        weights.write(z, self.lambdas.tolist() if self.m else weights.lambdas)
        self._written, self.writes = theta, self.writes + 1
        self.guard.note()

    def merge(self) -> nn.Module:
        """Leave theta_0 + Delta in the weights and take the hooks off: a plain model at no cost. `enable()` goes back to training."""
        self._bring_back()
        self.flush()
        self.disable()
        return self.model

    @torch.no_grad()
    def unmerge(self) -> nn.Module:
        """Put theta_0 back, bit for bit, and take the hooks off; theta is kept. `enable()` or `merge()` brings the tune back.

        Raises:
            InputError: keep_theta0=False, and the weights have moved: load the base model again.
        """
        self._weights.restore()
        if self._set_aside is None:
            self._set_aside = {name: p.detach().clone() for name, p in self._head.items()}, self.buffers.copy()
        for name, parameter in self._head.items():
            parameter.copy_(self._head_0[name])
        self.buffers.restore()
        self._written = None
        self.guard.note()
        self.disable()
        return self.model

    def release(self) -> nn.Module:
        """Give the model back untouched: theta_0, gradients, flags and hooks as they were found. The space is then spent."""
        self.unmerge()
        for parameter, grad in self._grads_0:
            parameter.grad = grad
        return self.model

    # --- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], recipe: str = "-", dtype: str = "fp32") -> None:
        """Write the tune: theta (lambdas last), the head where it is outside, running statistics where the model has them.

        `dtype` "bf16" or "int8" rounds theta in the file (`d90.subspace.file` says how far), not here.
        """
        moved = moved_attributes(self.model, self._attributes_0)
        if moved:
            warnings.warn(
                f"training has changed {moved}, which are plain attributes of modules and not in the tune; a model loaded from it "
                "has their first values. Register them with register_buffer, and the tune carries them",
                stacklevel=2,
            )
        tune_file.write(path, self.header(recipe), {"theta": self.theta, **self._beside()}, dtype)

    def header(self, recipe: str = "-") -> tune_file.Header:
        """The file's metadata line."""
        return tune_file.Header.of(self.options, self.base(), self.projection.checksum(), recipe)

    def base(self) -> Base:
        """The four parts of the base model's fingerprint: of theta_0, and of what the model had when the space was made."""
        if self._base is None or self._weights.theta_0 is not None:
            with self.buffers.at_start():
                self._base = base_of(self.model, self._weights.bases() | self._head_0)
        return self._base

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module, keep_theta0: bool = True) -> Subspace:
        """Apply a saved tune to its base model.

        Raises:
            InputError: an unsound file, another base model, or draws of P that differ from the file's.
        """
        header, tensors = tune_file.read(path)
        theta = tune_file.theta_of(header, tensors, path)
        inner = layout.uncompiled(model)
        support.check_supported(inner)
        if getattr(inner, "_d90_space", None) is None:  # else the constructor says what is wrong
            tune_file.same_base(header, inner, path)
        heads = [name.removeprefix("head:") for name in tensors if name.startswith("head:")]
        space = cls(model, theta.numel(), options=header.options, keep_theta0=keep_theta0, head_names=heads)
        try:
            space.take(header, tensors, path)
        except Exception:
            space.release()
            raise
        return space

    @property
    def units(self) -> tuple[float, ...]:
        """For each tensor that moves, u in Delta = u lambda P theta: c = 32 / sqrt(d) and the scale, at lambda = 1."""
        return tuple(self._weights.units)

    @torch.no_grad()
    def take(self, header: tune_file.Header, tensors: dict[str, Tensor], path: object) -> None:
        """Write a tune that was read into the model, in one pass over the weights.

        Raises:
            InputError: draws of P or tensors that are not this space's; nothing is changed then.
        """
        draws = self.projection.checksum()
        if header.options != self.options:
            raise InputError(f"'{path}' is the tune of another subspace: got {header.options}, expected {self.options}")
        if draws != header.draws:
            raise InputError(
                f"'{path}': P is another one here (checksum {draws}, file {header.draws}); the weights would be wrong. "
                "Likely cause: other weights are trainable (requires_grad) here than in training."
            )
        found = {name: tensor for name, tensor in tensors.items() if name != "theta"}
        buffers = {name for name in found if name.startswith(PREFIX)}
        head = {f"head:{name}": parameter for name, parameter in self._head.items()}
        if head.keys() != found.keys() - buffers or any(head[name].shape != found[name].shape for name in head):
            raise InputError(f"'{path}': its tensors {sorted(found)} are not the {sorted(head)} this model needs")
        self.buffers.check(buffers, {name: found[name].shape for name in buffers}, path)
        for name, parameter in head.items():
            parameter.copy_(found[name])
        self.buffers.write({name.removeprefix(PREFIX): found[name] for name in buffers})
        self._set_aside = self._written = None  # another tune may stand in the weights: write them, whatever theta was
        self.guard.forget()
        self.theta.copy_(tensors["theta"])
        self.flush()

    @exact
    def values(self, theta: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """What theta (d,) makes of every tensor inside, or of these, in memory of its own: the model stays as it is."""
        return self._weights.values(*self._parted(theta), names)

    @exact
    def factored(self, theta: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """(left, middle, right) of each tensor inside: theta changes it by left middle right^T. Of projections of low rank."""
        return self._weights.factored(*self._parted(theta))

    def _parted(self, theta: Tensor) -> tuple[Tensor, Sequence[float]]:
        """z and the lambdas of any theta."""
        lambdas = (1 + LAMBDA_STEP * theta[self.d - self.m :]).tolist() if self.m else self._weights.lambdas
        return self.projection.prepare(theta[: self.d - self.m]), lambdas

    def share(self, bases: dict[str, Tensor], buffers: Buffers | None = None) -> None:
        """Hold these tensors, equal to theta_0 by name and contiguous, in place of a copy: `d90.Bank` has one for all tunes.

        `buffers` are the base's, where the model's were not when this Subspace was made.
        """
        self._weights.theta_0 = [bases[name].view(-1) for name in self._names]
        self.buffers = buffers or self.buffers

    def _beside(self) -> dict[str, Tensor]:
        """What the tune holds besides theta: the head where it is outside, and the buffers that training moves."""
        if self._set_aside is None:
            head, buffers = {name: p.detach() for name, p in self._head.items()}, self.buffers.carried()
        else:
            aside, now = self._set_aside, self.buffers.copy()
            self.buffers.write(aside[1])
            head, buffers = aside[0], {name: buffer.clone() for name, buffer in self.buffers.carried().items()}
            self.buffers.write(now)
        return {**{f"head:{name}": tensor for name, tensor in head.items()}, **buffers}

    @torch.no_grad()
    def _bring_back(self) -> None:
        """Undo what `unmerge` did to head and buffers."""
        if self._set_aside is not None:
            for name, tensor in self._set_aside[0].items():
                self._head[name].copy_(tensor)
            self.buffers.write(self._set_aside[1])
        self._set_aside = None

    # --- hooks -----------------------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Put the hooks on: from here the model follows theta, and gradients fold into it."""
        if self._hooks:
            return
        if any(getattr(thing, "_d90_space", None) is not None for thing in (self.model, *self._tensors)):
            raise InputError(
                "this model, or a model with weights of this one, has another enabled Subspace; expected one at a time. "
                "Call merge() or release() on it"
            )
        self._bring_back()
        self._hooks.on()

    def disable(self) -> None:
        """Take the hooks off; the weights stay as they are."""
        self._hooks.off()

    def __deepcopy__(self, memo: object) -> Subspace:
        # A deep copy of the model must not drag a second space along; its hooks find out that they are on a copy.
        return self

    def __reduce__(self) -> NoReturn:
        refuse_pickling()

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _follow_model(self) -> Tensor:
        """Follow a model that was moved; refuse one that was cast."""
        self._weights.check_dtypes()
        self._weights.follow()
        self.guard.forget()
        device = self._weights.device
        self.theta.data, self.theta.grad = self.theta.data.to(device), None
        self._written = None if self._written is None else self._written.to(device)
        self.guard.note()
        return self.theta.detach()

    def __repr__(self) -> str:
        lambdas = f" ({self.m} lambdas)" if self.m else ""
        return (
            f"Subspace(d={self.d}{lambdas} of D={self.D}, structure='{self.options.structure}', "
            f"projection={self.projection!r}, scale='{self.options.scale}', layer={self.layer_definition!r}, "
            f"head='{self.options.head}')"
        )
