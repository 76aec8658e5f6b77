"""Methods: which weights move. One grammar names a method everywhere:

    method[:key=value,...][+method...][@d=...,structure=...,projection=...,scale=...,layer=...,head=...,seed=...]

as in `full`, `top:n=2`, `full@d=1000,structure=said`, `lora:r=8,targets=qv@d=500`. A new method joins by a line in
`METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from d90.errors import InputError, unknown_name
from d90.methods.adapter import Adapter
from d90.methods.base import Method
from d90.methods.bitfit import BitFit
from d90.methods.combined import Combined
from d90.methods.full import Full
from d90.methods.hiwi import HiWi
from d90.methods.lora import LoRA
from d90.methods.peft import Peft
from d90.methods.preembed import PreEmbed
from d90.methods.prelayer import PreLayer
from d90.methods.sparse import PaFi, Sparse
from d90.methods.top import TopLayers
from d90.subspace.subspace import STEP_RULE, Subspace

__all__ = ["METHODS", "Space", "Spec", "parse"]

METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (Full, TopLayers, BitFit, LoRA, Sparse, PaFi, HiWi, Adapter, PreEmbed, PreLayer, Peft)
}


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

    def apply(self, model: nn.Module, seed: int, step_rule: int = STEP_RULE) -> Subspace:
        """Make the subspace over the model's trainable parameters."""
        if self.d is None:
            raise InputError("a subspace needs its dimension: expected d=... behind '@', as in full@d=1000")
        own = seed if self.seed is None else self.seed
        options = (self.structure, self.projection, self.scale, self.layer, self.head, own, step_rule)
        return Subspace(model, self.d, *options)


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
    parts = [_method(part, text) for part in head.split("+")]
    method = parts[0] if len(parts) == 1 else Combined(*parts)
    if not at:
        return Spec(method)
    fields: dict[str, Any] = {}
    for key, value in _pairs(tail, text):
        if key not in Space.__dataclass_fields__:
            raise unknown_name("subspace option", key, Space.__dataclass_fields__)
        fields[key] = _typed(int, value, key, text) if key in ("d", "seed") else value
    return Spec(method, Space(**fields))


def _method(text: str, whole: str) -> Method:
    name, _, options = text.strip().partition(":")
    if name not in METHODS:
        raise unknown_name("method", name, METHODS, "Run 'd90 methods' for what each does.")
    kind = METHODS[name]
    given = {}
    for key, value in _pairs(options, whole):
        given[key] = _typed(kind.options[key][0], value, key, whole) if key in kind.options else value
    return kind(**given)


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


_KINDS = {int: "an integer", float: "a number", str: "a word", bool: "true or false"}


def _typed(kind: type, value: str, key: str, whole: str) -> Any:
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        if kind is bool:
            raise ValueError
        return kind(value)
    except ValueError:
        raise InputError(f"method '{whole}': got {key}={value}, expected {_KINDS[kind]}") from None
