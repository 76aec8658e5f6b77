"""Parameters that stand in for a model's frozen ones while it runs.

peft, optimizers and `print_trainable_parameters` take `requires_grad` at its word: a base model must show frozen weights.
A Subspace folds gradients, which only weights that require them receive. So each frozen parameter gets a twin over the
same memory; while a module runs the twins hang in the model, and outside of that the model is as peft expects it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["ParameterTwins"]

_Place = tuple[
    dict[str, nn.Parameter | None], str, nn.Parameter, nn.Parameter
]  # (a module's parameters, key, frozen one, its twin)


class ParameterTwins:
    """Twins of some `parameters` of `model`; `on()` hooks them in, `off()` ends it.

    A tied parameter has one twin. Recomputed blocks (activation checkpointing) run outside the model's own forward pass:
    whichever module is entered first puts in the twins below it, and takes them out at its end.
    """

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        self.model = model
        self._twins = {id(parameter): (parameter, nn.Parameter(parameter.data)) for parameter in parameters}
        self._places: dict[int, list[_Place]] = {}
        self._handles: list[Any] = []
        self._depth = 0

    def __deepcopy__(self, memo: object) -> ParameterTwins:
        return self  # a copied model's hooks find out below that they are on a copy

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For a while the twins are in the model, and nothing else in it requires gradients."""
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        places = self._below(self.model)
        self._put_in(places, trained=True)
        try:
            yield
        finally:
            self._take_out(places)
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def on(self, theta: Callable[[], nn.Parameter]) -> None:
        """From here the twins are in the model while it runs; they require gradients where `theta()` does."""
        self._theta = theta
        self._places = {id(module): self._below(module) for module in self.model.modules()}
        for module in self.model.modules():
            self._handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def off(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._places, self._depth = [], {}, 0

    def _enter(self, module: nn.Module, inputs: object) -> None:
        if id(module) not in self._places:
            return
        if self._depth == 0:
            self._put_in(self._places[id(module)], self._theta().requires_grad)
        self._depth += 1

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        if id(module) not in self._places or self._depth == 0:
            return
        self._depth -= 1
        if self._depth == 0:
            self._take_out(self._places[id(module)])

    def _below(self, module: nn.Module) -> list[_Place]:
        holders = [part._parameters for part in module.modules()]
        return [(held, key, *self._twins[id(p)]) for held in holders for key, p in held.items() if id(p) in self._twins]

    @staticmethod
    def _put_in(places: list[_Place], trained: bool) -> None:
        for held, key, frozen, twin in places:
            if twin.data_ptr() != frozen.data_ptr():  # the model was moved to another device
                twin.data = frozen.data
            if twin.requires_grad != trained:
                twin.requires_grad_(trained)
            held[key] = twin

    @staticmethod
    def _take_out(places: list[_Place]) -> None:
        for held, key, frozen, _ in places:
            held[key] = frozen
