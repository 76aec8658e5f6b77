"""The model that a decoder starts from, and the refusal of models that no message describes.

A message holds theta alone. What training moves besides (running statistics, the vectors of a spectral norm, an observer's range,
an attribute of a module) is not in it, so a message is applied to a copy of the starting point, made before anything is trained
on the examples that count. A bound is of a function of one example: a model that draws, changes, or looks at the rest of the batch
while it is evaluated has no such function.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.models.loading import Model
from d90.subspace.fingerprint import base_of, earlier_weights
from d90.training.batches import outputs_of
from d90.training.loop import Data

__all__ = ["StartingPoint", "check_evaluation", "own_copy", "steady"]

PROBE = 16  # examples that are evaluated again
SAME = 1e-3  # of an output: float32 sums over batches of another size differ by far less


class StartingPoint:
    """A model's whole state before a message is applied to it.

    Args:
        model: with its prior, before training on the examples that count.

    Attributes:
        weights: fingerprint of the parameters, rounded: part of a message's key in the store.
        base: the four parts of its fingerprint, value by value.
    """

    def __init__(self, model: Model) -> None:
        self._model = own_copy(model)
        self.weights = earlier_weights(self._model.module.named_parameters())
        self.base = base_of(self._model.module)

    def fresh(self) -> Model:
        """A copy of it, to apply a message to."""
        return own_copy(self._model)


def own_copy(model: Model) -> Model:
    """The model with a module of its own, without gradients.

    Raises:
        InputError: a module that cannot be copied.
    """
    try:
        module = copy.deepcopy(model.module)
    except Exception as error:
        raise InputError(
            f"model '{model.name}' cannot be copied ({type(error).__name__}: {error}), expected a module that copy.deepcopy takes: "
            "errors are counted on a copy of the starting point. Likely cause: a tensor with a graph held as an attribute"
        ) from None
    module.zero_grad(set_to_none=True)
    return replace(model, module=module)


def check_evaluation(data: Data) -> None:
    """Refuse a model that draws, changes, or mixes its examples while it is evaluated.

    Raises:
        InputError: which module does.
    """
    with steady(data):
        pass
    if len(data.train) < 2:
        return
    chosen = next(data.train.by_length(PROBE))
    half = chosen[: len(chosen) // 2]  # the longest first: the half is padded to the same length
    whole, alone = (_outputs(data, rows) for rows in (chosen, half))
    if not _close(whole[: len(half)], alone):
        name = _first_apart(data, chosen, half, _close)
        raise InputError(
            f"{name} gives an example another output beside other examples, expected each to be evaluated by itself: a bound counts "
            "independent examples. Likely cause: batch statistics at evaluation; train with running statistics, or a layer norm"
        )


@contextlib.contextmanager
def steady(data: Data) -> Iterator[None]:
    """Watch over an evaluation: nothing is drawn, no state moves, and the same examples give the same outputs after it.

    Raises:
        InputError: which module or tensor is the cause.
    """
    module = data.model.module
    module.eval()
    chosen = next(data.train.by_length(PROBE))
    before, state = _draws(), _digests(module)
    outputs = _outputs(data, chosen)
    yield
    module.eval()
    again = _outputs(data, chosen)
    if _draws() != before:
        raise InputError(
            f"{_first_that_draws(data, chosen)} draws random numbers while the model is evaluated, expected none: the message does "
            "not hold them, so what it describes is no one model. Likely cause: dropout or a random crop without a look at "
            "self.training; switch it off at evaluation"
        )
    moved = [name for name, digest in _digests(module).items() if digest != state.get(name)]
    if moved:
        raise InputError(
            f"'{moved[0]}' of {_owner(module, moved[0])} changes while the model is evaluated, expected none to: the message does not "
            "hold it. Likely cause: an observer or statistics that still run; freeze them at evaluation"
        )
    if not torch.equal(outputs.nan_to_num(), again.nan_to_num()):
        name = _first_apart(data, chosen, chosen, torch.equal)
        raise InputError(
            f"{name} gives the same examples other outputs when they are evaluated again, expected equal ones: the message does not "
            "hold what changed. Likely cause: a draw or a count of its own; switch it off at evaluation"
        )


# --- what is compared --------------------------------------------------------------------------------------------------


@torch.no_grad()
def _outputs(data: Data, chosen: Tensor) -> Tensor:
    data.model.module.eval()
    return outputs_of(data.model.module, data.train.inputs(chosen), data.task.kind).float().cpu()


def _close(some: Tensor, others: Tensor) -> bool:
    some, others = some.nan_to_num(), others.nan_to_num()
    if some.shape != others.shape or not some.numel():
        return some.shape == others.shape
    return float((some - others).abs().max()) <= SAME * (1.0 + float(others.abs().max()))


def _draws() -> tuple[Any, ...]:
    """The state of every global generator that a module may draw from."""
    name, keys, *rest = numpy.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = [torch.get_rng_state(), *cuda]
    return (
        *(state.numpy().tobytes() for state in states),
        random.getstate(),
        name,
        numpy.asarray(keys).tobytes(),
        *rest,
    )


def _digests(module: nn.Module) -> dict[str, str]:
    """A hash of every parameter and buffer, by name."""
    held = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {
        name: hashlib.sha256(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, tensor in held
        if not tensor.is_meta
    }


# --- which module it is ------------------------------------------------------------------------------------------------


def _owner(module: nn.Module, tensor: str) -> str:
    return type(module.get_submodule(tensor.rpartition(".")[0])).__name__


def _named(module: nn.Module, name: str) -> str:
    kind = type(module.get_submodule(name)).__name__
    return f"module '{name}' ({kind})" if name else f"the model itself ({kind})"


def _first_that_draws(data: Data, chosen: Tensor) -> str:
    """The innermost module in whose forward pass a generator moved."""
    root, found = data.model.module, []
    open_: list[tuple[Any, ...]] = []
    handles = []
    for name, part in root.named_modules():
        handles.append(part.register_forward_pre_hook(lambda *_: open_.append(_draws())))
        handles.append(
            part.register_forward_hook(lambda *_, name=name: found.append(name) if open_.pop() != _draws() else None)
        )
    try:
        _outputs(data, chosen)
    finally:
        for handle in handles:
            handle.remove()
    return _named(root, found[0]) if found else "the model"


def _first_apart(data: Data, some: Tensor, others: Tensor, same: Callable[[Tensor, Tensor], bool]) -> str:
    """The innermost module that takes the same rows and gives others."""
    seen: list[list[tuple[str, Tensor | None, Tensor]]] = []
    root, count = data.model.module, min(len(some), len(others))
    for rows in (some, others):
        calls: list[tuple[str, Tensor | None, Tensor]] = []

        def note(name: str, given: Any, gave: Any, calls: list[tuple[str, Tensor | None, Tensor]] = calls) -> None:
            if isinstance(gave, Tensor):
                taken = next((one for one in given if isinstance(one, Tensor)), None)
                calls.append(
                    (name, None if taken is None else taken[:count].detach().clone(), gave[:count].detach().clone())
                )

        handles = [
            part.register_forward_hook(lambda _, given, gave, name=name: note(name, given, gave))
            for name, part in root.named_modules()
        ]
        try:
            _outputs(data, rows)
        finally:
            for handle in handles:
                handle.remove()
        seen.append(calls)
    for (name, taken, gave), (_, taken_again, gave_again) in zip(*seen, strict=False):
        given_alike = taken is None or taken_again is None or _close(taken, taken_again)
        if given_alike and not same(gave, gave_again):
            return _named(root, name)
    return "the model"
