"""Methods: which weights move. One grammar names a method everywhere:

    method[:key=value,...][+method...][@d=...,structure=...,projection=...,scale=...,layer=...,head=...,seed=...]

as in `full`, `top:n=2`, `full@d=1000,structure=said`, `lora:r=8,targets=qv@d=500`. A new method joins by a line in
`METHODS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from d90.errors import InputError, unknown_name
from d90.methods.adapter import Adapter
from d90.methods.base import Method
from d90.methods.bitfit import BitFit
from d90.methods.combined import Combined
from d90.methods.fields import fields_of, read_value
from d90.methods.full import Full
from d90.methods.hiwi import HiWi
from d90.methods.lora import LoRA
from d90.methods.peft import Peft
from d90.methods.preembed import PreEmbed
from d90.methods.prelayer import PreLayer
from d90.methods.sparse import PaFi, SparseMask
from d90.methods.top import TopLayers
from d90.registry import Registry
from d90.subspace.options import STEP_RULE, SubspaceOptions

if TYPE_CHECKING:
    from torch import nn

    from d90.subspace.subspace import Subspace

__all__ = ["METHODS", "Space", "Spec", "parse", "register_method", "short_text"]


def _check(kind: type[Method]) -> None:
    sound = isinstance(kind, type) and issubclass(kind, Method) and dataclasses.is_dataclass(kind)
    if not sound or not all(isinstance(getattr(kind, key, None), str) for key in ("name", "summary")):
        raise InputError(
            f"got {kind!r} as a method, expected a frozen dataclass derived from d90.methods.Method with `name` and `summary`"
        )


METHODS: Registry[type[Method]] = Registry(
    "method",
    "d90.methods",
    {
        kind.name: kind
        for kind in (Full, TopLayers, BitFit, LoRA, SparseMask, PaFi, HiWi, Adapter, PreEmbed, PreLayer, Peft)
    },
    "Run 'd90 methods' for what each does.",
    _check,
)


def register_method(kind: type[Method]) -> type[Method]:
    """Add a method of your own to the grammar, under its `name`; usable as a decorator.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from d90.methods.bitfit import BitFit
        >>> @d90.register_method
        ... @dataclass(frozen=True)
        ... class Biases(BitFit):
        ...     name: ClassVar[str] = "biases"
        ...     summary: ClassVar[str] = "biases alone"
        >>> str(d90.methods.parse("biases"))
        'biases'

    Args:
        kind: a frozen dataclass derived from `Method`, whose fields are the method's options.

    Raises:
        InputError: it is no frozen dataclass derived from `Method`, lacks a name or a summary, or the name is taken.
    """
    METHODS.register(getattr(kind, "name", ""), kind)
    return kind


OPTIONS = ("structure", "projection", "scale", "layer", "head")  # of `SubspaceOptions`, as the grammar takes them


@dataclass(frozen=True)
class Space:
    """The part behind "@": a subspace over what the method moves.

    Attributes:
        d: its dimension.
        options: as `d90.Subspace` takes them; the seed and the step rule are the run's.
        seed: of P; None for the run's.
    """

    d: int | None = None
    options: SubspaceOptions = field(default_factory=SubspaceOptions)
    seed: int | None = None

    def apply(self, model: nn.Module, seed: int, step_rule: int = STEP_RULE) -> Subspace:
        """Make the subspace over the model's trainable parameters."""
        from d90.subspace.subspace import Subspace

        if self.d is None:
            raise InputError("a subspace needs its dimension; expected d=... after '@', as in full@d=1000")
        own = seed if self.seed is None else self.seed
        return Subspace(model, self.d, options=replace(self.options, seed=own, step_rule=step_rule))

    def changed(self, **fields: Any) -> Space:
        """The same with other values of `d`, `seed` or the options."""
        own = {key: fields.pop(key) for key in ("d", "seed") if key in fields}
        return replace(self, **own, options=replace(self.options, **fields))

    @property
    def brief(self) -> str:
        """d, and what is not the default; empty where there is neither."""
        usual = Space()
        given = {"d": self.d, **{key: getattr(self.options, key) for key in OPTIONS}, "seed": self.seed}
        default = {"d": None, **{key: getattr(usual.options, key) for key in OPTIONS}, "seed": None}
        return ",".join(f"{key}={value}" for key, value in given.items() if value != default[key])

    def __str__(self) -> str:
        given = {"d": self.d, **{key: getattr(self.options, key) for key in OPTIONS}, "seed": self.seed}
        return ",".join(f"{key}={value}" for key, value in given.items() if value is not None)


@dataclass(frozen=True)
class Spec:
    """A parsed method: what moves, and the subspace over it, if any. `str()` gives the canonical text."""

    method: Method
    space: Space | None = None

    def at(self, d: int | None, **changes: Any) -> Spec:
        """The same with a subspace of dimension d (and other subspace fields), or without one for d = None."""
        if d is None:
            return replace(self, space=None)
        return replace(self, space=(self.space or Space()).changed(d=d, **changes))

    @property
    def brief(self) -> str:
        """The canonical text without what every subspace has by default, for lines that repeat it: "full@d=1000"."""
        return short_text(self)

    def __str__(self) -> str:
        return str(self.method) if self.space is None else f"{self.method}@{self.space}"


def parse(text: str, usual: Mapping[str, Mapping[str, str]] | None = None) -> Spec:
    """Read a method from its text.

    Args:
        usual: by a method's name, options that it takes where the text does not give them.

    Raises:
        InputError: an unknown method or key, or a value of the wrong type.
    """
    head, at, tail = text.strip().partition("@")
    parts = [_method(part, text, usual or {}) for part in head.split("+")]
    method = parts[0] if len(parts) == 1 else Combined(*parts)
    if not at:
        return Spec(method)
    fields: dict[str, str | int] = {}
    for key, value in _pairs(tail, text):
        if key not in ("d", *OPTIONS, "seed"):
            raise unknown_name("subspace option", key, ("d", *OPTIONS, "seed"))
        fields[key] = _integer(value, key, text) if key in ("d", "seed") else value
    return Spec(method, Space().changed(**fields))


def short_text(spec: Spec) -> str:
    """A method's text without what is so by default: `lora:r=4,targets=all`, `full@d=100`. Targets are named: their default differs."""
    method, usual = spec.method, None
    if type(method).__init__ is not object.__init__ and not isinstance(method, Combined | Peft):
        usual = type(method)()
    text = str(method)
    if usual is not None:
        given = {
            one.name: getattr(method, one.name)
            for one in dataclasses.fields(method)
            if getattr(method, one.name) is not None
        }
        changed = {
            key: value for key, value in given.items() if key in ("r", "n", "targets") or value != getattr(usual, key)
        }
        if isinstance(method, LoRA) and method.alpha == method.r:
            changed.pop("alpha", None)
        text = method.name + (":" + ",".join(f"{key}={value}" for key, value in changed.items()) if changed else "")
    shown = spec.space.brief if spec.space is not None else ""
    return f"{text}@{shown}" if shown else text


def _method(text: str, whole: str, usual: Mapping[str, Mapping[str, str]]) -> Method:
    name, _, options = text.strip().partition(":")
    kind = METHODS.find(name)
    fields = fields_of(kind)
    given = {}
    flags = {key for key, field_ in fields.items() if field_.kind is bool}
    for key, value in (dict(usual.get(name, {})) | dict(_pairs(options, whole, flags))).items():
        if key in fields:
            given[key] = read_value(fields[key], value, whole)
        elif kind is Peft:
            given[key] = value  # a field of peft's own config, which the method reads
        else:
            raise unknown_name(f"option of method '{name}'", key, fields or ["(it takes none)"])
    return kind(**given)


def _pairs(text: str, whole: str, flags: Collection[str] = ()) -> list[tuple[str, str]]:
    """Keys and values; a flag alone is true."""
    pairs: list[tuple[str, str]] = []
    for item in filter(None, text.split(",")):
        key, equals, value = (f"{item}=true" if item.strip() in flags else item).partition("=")
        if not equals or not key or not value:
            raise InputError(f"method '{whole}': got '{item}', expected key=value pairs joined by commas")
        if key.strip() in dict(pairs):
            raise InputError(f"method '{whole}': got '{key.strip()}' twice, expected each key once")
        pairs.append((key.strip(), value.strip()))
    return pairs


def _integer(value: str, key: str, whole: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(f"method '{whole}': got {key}={value}, expected an integer") from None
