"""The hooks of a Subspace: before a forward pass the weights follow theta, in the backward pass gradients fold into it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from d90.errors import InputError, UnsupportedModelError
from d90.projections.base import exact
from d90.subspace import layout, watch
from d90.subspace.distributed import refuse_wrapped
from d90.subspace.weights import Folding, Weights

if TYPE_CHECKING:
    from d90.subspace.subspace import Subspace

__all__ = ["LAMBDA_STEP", "Hooks", "refuse_pickling"]

LAMBDA_STEP = 1.0  # lambda_i = 1 + LAMBDA_STEP theta_i, so lambdas move by the same learning rate
MAX_FAILED = 64  # backward passes of other threads whose folds are kept though they may have failed


class Hooks:
    """Puts the hooks on a model and takes them off again.

    Args:
        space: whose theta the model follows.
        weights: what it writes.
    """

    def __init__(self, space: Subspace, weights: Weights, head: list[nn.Parameter]) -> None:
        self._space, self._weights, self._head = space, weights, head
        self._handles: list[Any] = []
        self._made_sparse: list[nn.Embedding] = []
        self._inside = False
        self._folding: dict[int, tuple[int, Folding]] = {}  # (thread, folds) of each backward pass
        self._adding = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._handles)

    def __deepcopy__(self, memo: object) -> Hooks:
        return self

    def on(self) -> None:
        """Put the hooks on; gradients that lie in the weights are dropped."""
        space, model, tensors = self._space, self._space.model, self._weights.tensors
        watch.install()
        model._d90_space = space  # type: ignore[assignment]
        parts = [module for module in model.modules() if module is not model]
        self._handles = [
            model.register_forward_pre_hook(_untraced()(self._before_forward)),
            model.register_forward_hook(_untraced()(self._after_forward), always_call=True),
            *(m.register_state_dict_pre_hook(self._before_state_dict) for m in model.modules()),
            *(m.register_load_state_dict_pre_hook(self._before_load) for m in model.modules()),
            *(m.register_forward_pre_hook(self._before_part) for m in parts),
        ]
        if space.m:
            self._handles += [m.register_forward_hook(self._after_part) for m in parts]
        for parameter in self._head:
            parameter.grad = None
        for index, tensor in enumerate(tensors):
            tensor.grad, tensor._d90_space = None, space  # type: ignore[attr-defined]
            self._handles.append(tensor.register_post_accumulate_grad_hook(partial(self._fold, index)))

        # on a GPU one dense gradient costs less than finding its rows
        embeddings = layout.lone_embeddings(model, tensors)
        self._made_sparse = [one for one in embeddings if not space.projection.folds_together(one.weight)]
        for embedding in self._made_sparse:
            embedding.sparse = True  # its gradient then has the batch's rows alone

    def off(self) -> None:
        """Take the hooks off; the weights stay as they are."""
        for embedding in self._made_sparse:
            embedding.sparse = False
        self._made_sparse = []
        for handle in self._handles:
            handle.remove()
        if self._handles:
            for thing in (self._space.model, *self._weights.tensors):
                del thing._d90_space  # type: ignore[attr-defined]
        self._handles = []
        self._inside = False

    # --- forward ---------------------------------------------------------------------------------------------------

    def _before_forward(self, module: nn.Module, inputs: object) -> None:
        space = self._space
        training = torch.is_grad_enabled() and space.theta.requires_grad
        if module is not space.model:
            if torch.is_grad_enabled() and module.training:
                raise UnsupportedModelError(
                    "this is a deep copy of a model under a Subspace, and its gradients would not reach theta; it can only be "
                    "evaluated, as a snapshot. Call release() before copying, and make a Subspace on the copy."
                )
            return
        refuse_wrapped(space.model, self._weights.tensors)
        space.guard.check_places()
        self._weights.check_shapes()
        if training:
            space.guard.check_flags()
        space.flush()
        self._inside = True
        if torch._C._current_graph_task_id() == -1:  # not called from a backward pass, to recompute activations
            self._drop_failed()

    def _after_forward(self, module: nn.Module, inputs: object, output: object) -> None:
        self._inside = False
        if self._space.m and module is self._space.model:
            self._stamp(output)

    def _before_part(self, module: nn.Module, inputs: object) -> None:
        # Traced, this would break the graph at every module; a compiled model flushes as a whole.
        if not torch.compiler.is_compiling() and not self._inside:
            self._space.flush()

    def _after_part(self, module: nn.Module, inputs: object, output: object) -> None:
        if not torch.compiler.is_compiling() and not self._inside:
            self._stamp(output)

    def _stamp(self, output: object) -> None:
        """See that gradients which come back through `output` find the weights that made it: lambda's needs z of that time."""
        if torch.is_grad_enabled():
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._check_stamp, self._space.writes))

    def _check_stamp(self, writes: int, grad: Tensor) -> None:
        if writes != self._space.writes:
            raise RuntimeError(
                "theta was modified by an inplace operation and written into the weights between a forward pass and its backward "
                "pass; under 'said' the gradient of the lambdas needs both at one theta. Call backward() before optimizer.step() "
                "and before flush(), or run the forward pass again."
            )

    # --- state -----------------------------------------------------------------------------------------------------

    def _before_state_dict(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        self._space.flush()

    def _before_load(self, module: nn.Module, state: Mapping[str, Tensor], prefix: str, *others: object) -> None:
        """Refuse a state with other weights before any is loaded: the next theta would undo it."""
        self._space.flush()
        for key, parameter in module._parameters.items():
            if parameter is None or getattr(parameter, "_d90_space", None) is not self._space:
                continue
            new, held = state.get(prefix + key), parameter.detach()
            if isinstance(new, Tensor) and new.shape == held.shape and not torch.equal(new.to(held), held):
                raise UnsupportedModelError(
                    f"load_state_dict() would change '{prefix}{key}' under a Subspace, whose next step would undo that; expected "
                    "weights that theta alone moves. To go on with a run, load theta (Subspace.load, or SubspaceModel for the "
                    "Trainer); for another base call release(), load it, and make the Subspace again."
                )

    # --- backward --------------------------------------------------------------------------------------------------

    def _fold(self, index: int, parameter: Tensor) -> None:
        """Fold one weight's gradient into z-space, free it, and see that theta.grad is made when this backward pass ends."""
        grad, parameter.grad = parameter.grad, None
        if grad is None:
            return
        if grad.requires_grad:
            raise UnsupportedModelError(
                "backward(create_graph=True) under a Subspace: the gradient folded into theta has no graph, so second derivatives "
                "would be lost without a word; expected backward(). For them take torch.func.functional_call over "
                "theta_0 + space.projection.dense() @ theta on a small model"
            )
        backward = torch._C._current_graph_task_id()  # one that failed must not be mixed with the next
        held = self._folding.get(backward)
        if held is None:
            with self._adding:
                if len(self._folding) >= MAX_FAILED:
                    self._folding.pop(next(iter(self._folding)))
                held = self._folding[backward] = (threading.get_ident(), Folding(self._weights, self._space.m))
            torch.autograd.Variable._execution_engine.queue_callback(partial(self._finish_backward, backward))
        held[1].add(index, grad)

    @exact
    def _finish_backward(self, backward: int) -> None:
        space = self._space
        z_gradient, lambda_gradient = self._folding.pop(backward)[1].finish()
        gradient = torch.cat((space.projection.finish(z_gradient), LAMBDA_STEP * lambda_gradient.float()))
        with self._adding:
            space.theta.grad = gradient if space.theta.grad is None else space.theta.grad + gradient

    def _drop_failed(self) -> None:
        """Drop what backward passes of this thread have left that failed half-way; another thread's may be running."""
        if self._folding:
            mine = threading.get_ident()
            with self._adding:
                for backward in [task for task, (thread, _) in self._folding.items() if thread == mine]:
                    del self._folding[backward]


@functools.cache
def _untraced() -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The class of a hook that torch.compile leaves out of its graphs, and pickle refuses with a reason.

    It is made when the first space is: marking it brings torch's compiler in, which takes longer to import than all of d90.
    """

    class Untraced:
        def __init__(self, hook: Callable[..., None]) -> None:
            self._hook = hook

        @torch.compiler.disable  # on the call itself: a frame of ours around a disabled function would be traced
        def __call__(self, *args: Any) -> None:
            self._hook(*args)

        def __deepcopy__(self, memo: object) -> Untraced:
            return self

        def __reduce__(self) -> NoReturn:
            refuse_pickling()

    return Untraced


def refuse_pickling() -> NoReturn:
    """Say why a model under a Subspace, or a Subspace, is not pickled.

    Raises:
        InputError: always.
    """
    raise InputError(
        "got a model under a d90.Subspace, or the Subspace itself, to pickle (torch.save, multiprocessing), expected a tune or a "
        "plain model: save the tune with space.save(), weights with torch.save(model.state_dict()), or call merge() first"
    )


def _tensors(output: object) -> Iterator[Tensor]:
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dataclass_fields__"):
            yield from (value for value in tree_leaves(dict(vars(leaf))) if isinstance(value, Tensor))
