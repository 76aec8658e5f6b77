"""A batch on a live model: hooks on the layers that tunes change, present while any thread's batch is open.

A plan belongs to the context in which it was opened (a thread, or a task of asyncio): other threads' forward passes through the same
model do not see it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from d90.errors import InputError, UnsupportedModelError
from d90.methods.targets import transformer_blocks
from d90.serving.plan import Plan

__all__ = ["Batches", "check_rows_first"]

_open: ContextVar[Mapping[int, Plan]] = ContextVar("d90.serving", default={})  # noqa: B039 - never written to
_INPUTS = ("input_ids", "inputs_embeds", "pixel_values", "input_values", "input_features", "decoder_input_ids")
# Their layers see tokens first and rows second, which a batch of as many rows as tokens would hide.
_TOKENS_FIRST = ("longformer", "led", "xlnet", "reformer", "xlm-prophetnet", "prophetnet")


class Batches:
    """The open batches of one model, of all threads."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._hooks: dict[str, tuple[list[RemovableHandle], int]] = {}  # by layer, with how many batches need it
        self._blocks = _blocks_of(model)

    @property
    def any_open(self) -> bool:
        """Whether a batch is open in any thread."""
        return bool(self._hooks)

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        """Forward passes of this context are the plan's."""
        names = ["", *plan.layers]
        with self._lock:
            for name in names:
                handles, users = self._hooks.get(name) or (self._put(name), 0)
                self._hooks[name] = handles, users + 1
        token = _open.set({**_open.get(), id(self): plan})
        try:
            yield
        finally:
            _open.reset(token)
            with self._lock:
                for name in names:
                    handles, users = self._hooks.pop(name)
                    if users > 1:
                        self._hooks[name] = handles, users - 1
                        continue
                    for handle in handles:
                        handle.remove()

    def _put(self, name: str) -> list[RemovableHandle]:
        if not name:
            before, after = self._whole()
            return [
                self._model.register_forward_pre_hook(before, with_kwargs=True),
                self._model.register_forward_hook(after),
            ]
        return [self._model.get_submodule(name).register_forward_hook(self._of_layer(name))]

    def _of_layer(self, name: str) -> Callable[..., Tensor | None]:
        flat = not name.startswith(self._blocks)  # outside the blocks a row may be one vector

        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            plan = _open.get().get(id(self))
            if plan is None or name not in plan.layers:
                return None
            if not args:
                raise InputError(f"layer '{name}' was called with its inputs by keyword; expected them in their place")
            return plan.add(name, args[0], output, flat)

        return add

    def _whole(self) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
            plan = _open.get().get(id(self))
            inputs = _rows_of(args, kwargs or {})
            if plan is not None and inputs is not None and len(inputs) != plan.count:
                raise InputError(
                    f"got a batch of {len(inputs)} rows for {plan.count} names; expected one name a row, None for the base. "
                    "Beams and several sequences for a prompt are rows: repeat a prompt's name as often"
                )

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            plan = _open.get().get(id(self))
            if plan is not None:
                plan.check_all_called()

        return before, after


def check_rows_first(model: nn.Module) -> None:
    """Refuse models whose layers do not have rows along their first dimension, or that were compiled.

    Raises:
        UnsupportedModelError: with what to do.
    """
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if kind in _TOKENS_FIRST:
        raise UnsupportedModelError(
            f"a {kind} model has tokens along the first dimension of its layers, expected the batch's rows. Switch with bank.use()"
        )
    if hasattr(model, "_orig_mod"):
        raise UnsupportedModelError(
            "got a compiled model, expected the plain one: what was compiled sees no hooks. Make the Bank before torch.compile"
        )


def _blocks_of(model: nn.Module) -> tuple[str, ...]:
    try:
        return tuple(f"{name}." for name, _ in transformer_blocks(model))
    except InputError:  # no transformer
        return ()


def _rows_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor whose first dimension is the batch's rows."""
    named = [kwargs.get(key) for key in _INPUTS]
    found = (one for one in (*named, *args, *kwargs.values()) if isinstance(one, Tensor) and one.dim())
    return next(found, None)
