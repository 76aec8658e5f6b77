"""Training in a random subspace, in place, over any `nn.Module`.

    DID    theta_D = theta_0 + c sigma_t (P theta)_t                    for each tensor t
    SAID   theta_D = theta_0 + c lambda_i sigma_t (P theta)_t           t in layer i; d counts the lambdas

Before a forward pass the weights are written in place if theta has changed; in the backward pass each weight's gradient
is folded into d numbers and freed at once. So there is no autograd graph of the projection, and the optimizer sees d
numbers. Li et al. 2018, section 2 (DID); Aghajanyan et al. 2021, section 3 (SAID).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from d90.errors import InputError, UnsupportedModelError
from d90.projections import Projection, build
from d90.projections.base import exact
from d90.subspace import file as tune_file
from d90.subspace import layout
from d90.subspace.distributed import Exchange, digest, refuse_wrapped
from d90.subspace.fingerprint import Base, base_of
from d90.subspace.options import Head, Layer, Scale, Structure, SubspaceOptions
from d90.subspace.weights import Folding, Weights

__all__ = ["Subspace"]

DEFAULT = SubspaceOptions()
LAMBDA_STEP = 1.0  # lambda_i = 1 + LAMBDA_STEP theta_i, so lambdas move by the same learning rate

_AnyOptimizer = TypeVar("_AnyOptimizer", bound=Optimizer)


class Subspace:
    """A d-dimensional random subspace laid over the trainable parameters of `model`.

    Args:
        model: any module; its parameters with `requires_grad` are moved, tied ones once.
        d: how many numbers are trained, lambdas included.
        structure, projection, scale, layer, head, seed, step_rule: the fields of `SubspaceOptions`, or all of them at
            once as `options`.
        keep_theta0: hold a copy of theta_0. Without it (fp32 only) there is no second copy of the model: each step adds
            P (theta_new - theta_old), and `release()` and `unmerge()` mean loading the base again.
        head_names: the parameters of a head that is outside; by default `layout.head_tensors`. A file names them.

    `theta` (d,) starts at zero: first the coordinates, then the m lambdas as lambda - 1. `space.parameters()` gives it
    to an optimizer; the training loop over `model` is then an ordinary one. `torch.autograd.grad` fires no hook and
    does not fill `theta.grad`: use `backward()`. Reading `model.parameters()` directly between an optimizer step and a
        forward pass shows the weights as last written: call `flush()` first.

    Raises:
        InputError: d not above the number of lambdas, above D, or below 1; an unknown name.
        UnsupportedModelError: sharded, quantised, wrapped or meta-device models.
    """

    def __init__(
        self,
        model: nn.Module,
        d: int,
        structure: Structure = DEFAULT.structure,
        projection: str = DEFAULT.projection,
        scale: Scale = DEFAULT.scale,
        layer: Layer = DEFAULT.layer,
        head: Head = DEFAULT.head,
        seed: int = DEFAULT.seed,
        step_rule: int = DEFAULT.step_rule,
        keep_theta0: bool = True,
        *,
        options: SubspaceOptions | None = None,
        head_names: Iterable[str] | None = None,
    ) -> None:
        keywords = SubspaceOptions(structure, projection, scale, layer, head, seed, step_rule)
        if options is not None and keywords != DEFAULT:
            raise InputError(f"got options={options} and single options beside them, expected one or the other")
        options = options or keywords
        compiled, model = model, layout.uncompiled(model)
        layout.check_supported(model)
        if getattr(model, "_d90_space", None) is not None:
            raise InputError("this model already has a Subspace; expected one at a time. Call release() on the first")
        named = layout.trainable(model)
        if not named:
            raise InputError(
                "the model has no trainable parameters (all have requires_grad=False), expected at least one"
            )
        outside = set(head_names or layout.head_tensors(model, named)) if options.head == "outside" else set()
        self._names = [name for name in named if name not in outside]
        self._head = {name: named[name] for name in named if name in outside}
        self._tensors = [named[name] for name in self._names]
        self._places = layout.places(model, self._names)
        self.layer_names, self.layer_definition = self._layers(model, options)
        m = len(dict.fromkeys(self.layer_names))
        if options.structure == "said" and d <= m:
            raise InputError(
                f"got d={d}, expected more than {m}: 'said' spends one number on the lambda of each of {m} layers "
                f"(layer='{options.layer}') and needs at least one more. Raise d, or choose a coarser layer or structure='did'."
            )
        self.model, self.d, self.m = model, d, m if options.structure == "said" else 0
        sizes = [tensor.numel() for tensor in self._tensors]
        self.projection: Projection = build(options.projection, d - self.m, sizes, options.seed)
        self.D = self.projection.D
        self.options = replace(
            options,
            projection=f"{self.projection.name}:{self.projection.entries}",
            step_rule=1 if options.scale == "tensor" else options.step_rule,  # the rules agree there
        )
        units = layout.units(self.options.scale, self._tensors, d - self.m, self.options.step_rule)
        order = {name: i for i, name in enumerate(dict.fromkeys(self.layer_names))}
        layers = [order[name] for name in self.layer_names]
        still = layout.padding_rows(model, self._tensors)
        self._weights = Weights(self._names, self._tensors, units, layers, self.projection, keep_theta0, still)
        self._base: Base | None = None  # once it is known
        self.theta = nn.Parameter(torch.zeros(d, dtype=torch.float32, device=self._weights.device))
        self._extras_0 = {name: tensor.detach().clone() for name, tensor in self._extras().items()}
        self._set_aside: dict[str, Tensor] | None = None  # the tune's extras while the base's are in place
        self._grads_0 = [(p, p.grad) for p in (*self._tensors, *self._head.values())]
        self._written: Tensor | None = self.theta.detach().clone()
        self._folding: dict[int, Folding] = {}  # of each backward pass
        self._handles: list[Any] = []
        self._made_sparse: list[nn.Embedding] = []
        self._inside = False
        self.enable()
        if compiled is not model:
            torch.compiler.reset()  # what was compiled before saw no hooks

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
        # A fused optimizer and `.data` change theta without moving its version counter: compare the d numbers.
        weights, theta = self._weights, self.theta.detach()
        if weights.device != theta.device or weights.tensors[0].dtype != weights.dtypes[0]:
            theta = self._follow_model()
        if self._written is not None and torch.equal(theta, self._written):
            return
        weights.check_dtypes()
        if weights.theta_0 is None:
            self.base()  # the last moment to take it
        theta = theta.clone()  # z may lie in it, and must not follow the parameter
        z = self.projection.prepare(theta[: self.d - self.m])
        weights.write(z, self.lambdas.tolist() if self.m else weights.lambdas)
        self._written = theta

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
        extras = self._extras()
        if self._set_aside is None:
            self._set_aside = {name: place.detach().clone() for name, place in extras.items()}
        for name, place in extras.items():
            place.copy_(self._extras_0[name])
        self._written = None
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
        extras = self._extras() if self._set_aside is None else self._set_aside
        tune_file.write(path, self.header(recipe), {"theta": self.theta, **extras}, dtype)

    def header(self, recipe: str = "-") -> tune_file.Header:
        """The file's metadata line."""
        return tune_file.Header.of(self.options, self.base(), self.projection.checksum(), recipe)

    def base(self) -> Base:
        """The four parts of the base model's fingerprint: of theta_0, and of what the model had when the space was made."""
        if self._base is None or self._weights.theta_0 is not None:
            extras = {name.partition(":")[2]: tensor for name, tensor in self._extras_0.items()}
            self._base = base_of(self.model, {**self._weights.bases(), **extras})
        return self._base

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module, keep_theta0: bool = True) -> Subspace:
        """Lay a saved tune over its base model.

        Raises:
            InputError: an unsound file, another base model, or draws of P that differ from the file's.
        """
        header, tensors = tune_file.read(path)
        theta = tune_file.theta_of(header, tensors, path)
        inner = layout.uncompiled(model)
        layout.check_supported(inner)
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

    @torch.no_grad()
    def take(self, header: tune_file.Header, tensors: dict[str, Tensor], path: object) -> None:
        """Write a tune that was read into the model, in one pass over the weights.

        Raises:
            InputError: draws of P or tensors that are not this space's; nothing is changed then.
        """
        draws, places = self.projection.checksum(), self._extras()
        if header.options != self.options:
            raise InputError(f"'{path}' is the tune of another subspace: got {header.options}, expected {self.options}")
        if draws != header.draws:
            raise InputError(
                f"'{path}': P is another one here (checksum {draws}, file {header.draws}); the weights would be wrong. "
                "Likely cause: other weights are trainable (requires_grad) here than in training."
            )
        found = {name: tensor for name, tensor in tensors.items() if name != "theta"}
        if places.keys() != found.keys() or any(places[n].shape != found[n].shape for n in places):
            raise InputError(f"'{path}': its tensors {sorted(found)} are not the {sorted(places)} this model needs")
        for name, place in places.items():
            place.copy_(found[name])
        self._set_aside = self._written = None  # another tune may stand in the weights: write them, whatever theta was
        self.theta.copy_(tensors["theta"])
        self.flush()

    def share_theta_0(self, bases: dict[str, Tensor]) -> None:
        """Hold these tensors, equal to theta_0 by name and contiguous, in place of a copy: `d90.Bank` has one for all tunes."""
        self._weights.theta_0 = [bases[name].view(-1) for name in self._names]

    def _extras(self) -> dict[str, Tensor]:
        """What the tune holds besides theta, in the model: the head where it is outside, running statistics."""
        extras: dict[str, Tensor] = {f"head:{name}": parameter for name, parameter in self._head.items()}
        return extras | {f"buffer:{name}": buffer for name, buffer in layout.running_statistics(self.model)}

    @torch.no_grad()
    def _bring_back(self) -> None:
        """Undo what `unmerge` did to the extras."""
        if self._set_aside is not None:
            for name, tensor in self._extras().items():
                tensor.copy_(self._set_aside[name])
        self._set_aside = None

    # --- hooks -----------------------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Put the hooks on: from here the model follows theta, and gradients fold into it."""
        if self._handles:
            return
        if any(getattr(thing, "_d90_space", None) is not None for thing in (self.model, *self._tensors)):
            raise InputError(
                "this model, or a model with weights of this one, has another armed Subspace; expected one at a time. "
                "Call merge() or release() on it"
            )
        self._bring_back()
        self.model._d90_space = self  # type: ignore[assignment]
        self._handles = [
            self.model.register_forward_pre_hook(torch.compiler.disable(self._before_forward)),
            self.model.register_forward_hook(torch.compiler.disable(self._after_forward), always_call=True),
            *(m.register_state_dict_pre_hook(self._before_state_dict) for m in self.model.modules()),
            *(m.register_forward_pre_hook(self._before_part) for m in self.model.modules() if m is not self.model),
        ]
        for parameter in self._head.values():
            parameter.grad = None
        for index, tensor in enumerate(self._tensors):
            tensor.grad, tensor._d90_space = None, self  # type: ignore[attr-defined]
            self._handles.append(tensor.register_post_accumulate_grad_hook(partial(self._fold, index)))

        # on a GPU one dense gradient costs less than finding its rows
        embeddings = layout.lone_embeddings(self.model, self._tensors)
        self._made_sparse = [one for one in embeddings if not self.projection.folds_together(one.weight)]
        for embedding in self._made_sparse:
            embedding.sparse = True  # its gradient then has the batch's rows alone

    def disable(self) -> None:
        """Take the hooks off; the weights stay as they are."""
        for embedding in self._made_sparse:
            embedding.sparse = False
        self._made_sparse = []
        for handle in self._handles:
            handle.remove()
        if self._handles:
            for thing in (self.model, *self._tensors):
                del thing._d90_space  # type: ignore[attr-defined]
        self._handles = []
        self._inside = False

    def __deepcopy__(self, memo: object) -> Subspace:
        # A deep copy of the model must not drag a second space along; its hooks find out below that they are on a copy.
        return self

    def _before_forward(self, module: nn.Module, inputs: object) -> None:
        if module is not self.model:
            if torch.is_grad_enabled() and module.training:
                raise UnsupportedModelError(
                    "this is a deep copy of a model under a Subspace, and its gradients would not reach theta; it can only be "
                    "evaluated, as a snapshot. Call release() before copying, and make a Subspace on the copy."
                )
            return
        refuse_wrapped(self.model, self._tensors)
        for holder, name, what in self._places:
            if holder.get(name) is not what:
                raise UnsupportedModelError(
                    f"'{name}' was replaced under a Subspace, which would go on moving the old one; expected the same "
                    "parameters. Likely cause: resize_token_embeddings(), a new head, or FSDP. Change the model first."
                )
        self._weights.check_shapes()
        self.flush()
        self._inside = True
        if torch._C._current_graph_task_id() == -1:  # not called from a backward pass, to recompute activations
            self._folding.clear()  # what backward passes that failed half-way have left

    def _after_forward(self, module: nn.Module, inputs: object, output: object) -> None:
        self._inside = False

    def _before_part(self, module: nn.Module, inputs: object) -> None:
        # Traced, this would break the graph at every module; a compiled model flushes as a whole.
        if not torch.compiler.is_compiling() and not self._inside:
            self.flush()

    def _before_state_dict(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        self.flush()

    def _fold(self, index: int, parameter: Tensor) -> None:
        """Fold one weight's gradient into z-space, free it, and see that theta.grad is made when this backward pass ends."""
        grad, parameter.grad = parameter.grad, None
        if grad is None:
            return
        backward = torch._C._current_graph_task_id()  # one that failed must not be mixed with the next
        if backward not in self._folding:
            self._folding[backward] = Folding(self._weights, self.m)
            torch.autograd.Variable._execution_engine.queue_callback(partial(self._finish_backward, backward))
        self._folding[backward].add(index, grad)

    @exact
    def _finish_backward(self, backward: int) -> None:
        z_gradient, lambda_gradient = self._folding.pop(backward).finish()
        gradient = torch.cat((self.projection.finish(z_gradient), LAMBDA_STEP * lambda_gradient.float()))
        self.theta.grad = gradient if self.theta.grad is None else self.theta.grad + gradient

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _layers(self, model: nn.Module, options: SubspaceOptions) -> tuple[list[str], str]:
        names, definition = layout.layer_of(model, self._names, options.layer)
        return names, definition if options.structure == "said" else "none (did)"

    def _follow_model(self) -> Tensor:
        """Follow a model that was moved; refuse one that was cast."""
        self._weights.check_dtypes()
        self._weights.follow()
        device = self._weights.device
        self.theta.data, self.theta.grad = self.theta.data.to(device), None
        self._written = None if self._written is None else self._written.to(device)
        return self.theta.detach()

    def __repr__(self) -> str:
        lambdas = f" ({self.m} lambdas)" if self.m else ""
        return (
            f"Subspace(d={self.d}{lambdas} of D={self.D}, structure='{self.options.structure}', "
            f"projection={self.projection!r}, scale='{self.options.scale}', layer={self.layer_definition!r}, "
            f"head='{self.options.head}')"
        )
