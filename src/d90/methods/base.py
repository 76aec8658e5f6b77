"""What a method is: which weights move. One short file a method, one line in the table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from d90.errors import InputError, choose

__all__ = ["Method"]


class Method(ABC):
    """Chooses the weights of a model that move, by their `requires_grad` flags.

    Class attributes:
        name: as in the grammar.
        summary: a line for `d90 methods`.
        options: the keys the grammar accepts, each with its type and default.
        merges: whether the trained model is an ordinary one of the base's shape.
        starts_at_base: whether the untrained model's outputs are the base's.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[dict[str, tuple[type, Any]]] = {}
    merges: ClassVar[bool] = True
    starts_at_base: ClassVar[bool] = True

    def __init__(self, **given: Any) -> None:
        for key in given:
            if key not in self.options:
                raise choose(f"option of method '{self.name}'", key, self.options or ["(it takes none)"])
        self.values = {key: given.get(key, default) for key, (_, default) in self.options.items()}

    @abstractmethod
    def chosen(self, model: nn.Module) -> set[str]:
        """Names of the parameters that move (tied ones under their first name).

        Raises:
            InputError: nothing matches: what was looked for, and what the model has.
        """

    def select(self, model: nn.Module) -> dict[str, bool]:
        """Set the model's `requires_grad` flags to what moves; returns the flags as they were, to give back."""
        before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        chosen = {name for name in self.chosen(model) if before[name]}
        if not chosen:
            raise InputError(
                f"method '{self}' moves nothing in this model: all it would move is frozen (requires_grad=False). "
                "Unfreeze those weights, or choose another method."
            )
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
        return before

    def __str__(self) -> str:
        shown = ",".join(f"{key}={value}" for key, value in self.values.items())
        return f"{self.name}:{shown}" if shown else self.name


def give_back(model: nn.Module, flags: dict[str, bool]) -> None:
    """Set the `requires_grad` flags that `select` returned."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
