"""Methods: which weights move. One grammar names a method everywhere:

    method[:key=value,...][@d=...,structure=...,projection=...,scale=...,layer=...,head=...,seed=...]

as in `full`, `top:n=2`, `full@d=1000,structure=said`. A new method joins by a line in `METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from d90.errors import InputError, choose
from d90.methods.base import Method, give_back
from d90.methods.bitfit import BitFit
from d90.methods.direct import Direct, Trainable, put_back, snapshot
from d90.methods.full import Full
from d90.methods.top import TopLayers
from d90.subspace import Subspace

__all__ = [
    "METHODS",
    "BitFit",
    "Direct",
    "Full",
    "Method",
    "Space",
    "Spec",
    "TopLayers",
    "Trainable",
    "give_back",
    "parse",
    "put_back",
    "snapshot",
]

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Full, TopLayers, BitFit)}


@dataclass(frozen=True)
class Space:
    """The part behind "@": a subspace over what the method moves. Fields as `d90.Subspace` takes them; seed None = the run's."""

    d: int | None = None
    structure: str = "did"
    projection: str = "fastfood"
    scale: str = "tensor"
    layer: str = "block"
    head: str = "inside"
    seed: int | None = None

    def lay(self, model: nn.Module, seed: int) -> Subspace:
        """Make the subspace over the model's trainable parameters."""
        if self.d is None:
            raise InputError("a subspace needs its dimension: expected d=... behind '@', as in full@d=1000")
        own = seed if self.seed is None else self.seed
        return Subspace(model, self.d, self.structure, self.projection, self.scale, self.layer, self.head, own)


@dataclass(frozen=True)
class Spec:
    """A parsed method: what moves, and the subspace over it, if any. `str()` gives the canonical text."""

    method: Method
    space: Space | None = None

    def at(self, d: int | None, **changes: Any) -> Spec:
        """The same with a subspace of dimension d (and other subspace fields), or without one for d = None."""
        if d is None:
            return replace(self, space=None)
        return replace(self, space=replace(self.space or Space(), d=d, **changes))

    def __str__(self) -> str:
        if self.space is None:
            return str(self.method)
        shown = [f"{key}={value}" for key, value in vars(self.space).items() if value is not None]
        return f"{self.method}@{','.join(shown)}"


def parse(text: str) -> Spec:
    """Read a method from its text.

    Raises:
        InputError: an unknown method or key, or a value of the wrong type.
    """
    head, at, tail = text.strip().partition("@")
    if "+" in head:
        raise InputError(
            f"got '{text}': '+' joins a method that changes weights with one that inserts modules, and none of "
            f"{', '.join(METHODS)} inserts modules. Give one method."
        )
    name, _, options = head.partition(":")
    if name not in METHODS:
        raise choose("method", name, METHODS, "Run 'd90 methods' for what each does.")
    kind = METHODS[name]
    given = {}
    for key, value in _pairs(options, text):
        given[key] = _typed(kind.options[key][0], value, key, text) if key in kind.options else value
    method = kind(**given)
    if not at:
        return Spec(method)
    fields: dict[str, Any] = {}
    for key, value in _pairs(tail, text):
        if key not in Space.__dataclass_fields__:
            raise choose("subspace option", key, Space.__dataclass_fields__)
        fields[key] = _typed(int, value, key, text) if key in ("d", "seed") else value
    return Spec(method, Space(**fields))


def _pairs(text: str, whole: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise InputError(f"method '{whole}': got '{item}', expected key=value pairs joined by commas")
        if key.strip() in dict(pairs):
            raise InputError(f"method '{whole}': got '{key.strip()}' twice, expected each key once")
        pairs.append((key.strip(), value.strip()))
    return pairs


def _typed(kind: type, value: str, key: str, whole: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"method '{whole}': got {key}={value}, expected a {kind.__name__}") from None
