"""What an option is: a dataclass field with a help text, a closed set or limits, and its spelling on the command line.

    @dataclass(frozen=True, kw_only=True)
    class TrainingOptions(Options):
        epochs: float = option(3, "Passes over the training split.", limit=more_than(0))

The field is checked when the options are made, whether its value came from Python, a command line or a recipe.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from d90.errors import InputError, unknown_name

__all__ = ["Limit", "OptionField", "Options", "Precision", "Weights", "at_least", "fields_of", "more_than", "option"]

Precision = Literal["auto", "fp32", "bf16"]
Weights = Literal["auto", "fp32", "bf16", "4bit"]
T = TypeVar("T")
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    tuple: "a list",
}


@dataclass(frozen=True)
class Limit:
    """The numbers an option may have: from `low` to `high`, the ends left out where `open_low`, `open_high`; `words` say which."""

    words: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number lies within; NaN does not."""
        above = value > self.low if self.open_low else value >= self.low
        return bool(above and (value < self.high if self.open_high else value <= self.high))


def at_least(low: float) -> Limit:
    """No less than `low`."""
    return Limit(f"at least {low:g}", low)


def more_than(low: float) -> Limit:
    """A finite number above `low`."""
    return Limit(f"more than {low:g}", low, open_low=True, open_high=True)


def option(
    default: T,
    help: str,
    *,
    limit: Limit | None = None,
    flags: Sequence[str] = (),
    old: Sequence[str] = (),
    joined: str = "",
    shown: bool = True,
    later: bool = False,
) -> T:
    """A field of options.

    Args:
        default: where nothing is given.
        help: one line, for the command line and for an IDE.
        limit: of a number.
        flags: on the command line, where they are not the field's name with dashes.
        old: earlier spellings on the command line, which still work, with a notice.
        joined: the form of several values in one text (`d90.joined`).
        shown: whether it is an option of commands and recipes too; otherwise of Python alone.
        later: whether stored recipes did not always have it: it then stands in a recipe, and so in a trial's key, only where it
            differs from its default, which is what was done before.
    """
    about = {
        "help": help, "limit": limit, "flags": tuple(flags), "old": tuple(old), "joined": joined, "shown": shown, "later": later,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=about)


@dataclass(frozen=True)
class OptionField:
    """One option, read from its field.

    Attributes:
        kinds: the types it may have, without None.
        optional: whether None is a value.
        choices: its closed set; empty where any will do.
    """

    name: str
    kinds: tuple[type, ...]
    optional: bool
    choices: tuple[str, ...]
    default: Any
    help: str
    limit: Limit | None
    flags: tuple[str, ...]
    old: tuple[str, ...]
    joined: str
    shown: bool
    later: bool

    def read(self, value: Any) -> Any:
        """The value, checked: whole numbers as int, sequences as a tuple.

        Raises:
            InputError: it is of another type, outside the closed set, or outside the limits.
        """
        if value is None and self.optional:
            return None
        if self.choices and value not in self.choices:
            raise unknown_name(self.name, value, self.choices)
        known = [kind for kind in self.kinds if kind in WORDS]
        if len(known) == len(self.kinds) and not any(_fits(value, kind) for kind in known):
            expected = " or ".join(WORDS[kind] for kind in known)
            raise InputError(f"got {self.name}={value!r:.60}, expected {expected}{' or None' if self.optional else ''}")
        if int in self.kinds and float not in self.kinds and _fits(value, int):
            value = operator.index(value)
        if self.limit is not None and isinstance(value, numbers.Real) and not self.limit.holds(value):
            raise InputError(f"got {self.name}={value}, expected {self.limit.words}")
        return tuple(value) if tuple in self.kinds else value


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is int:
        return hasattr(value, "__index__")
    if kind is float:
        return isinstance(value, numbers.Real)
    if kind is Path:
        return isinstance(value, str | os.PathLike)
    if kind is tuple:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return isinstance(value, kind)


@dataclass(frozen=True, repr=False)
class Options:
    """Options of one subject, checked when they are made: `to_dict` gives those that differ from their defaults."""

    def __post_init__(self) -> None:
        self.check()

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items())
        return f"{type(self).__name__}({given})"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: which option, and what was expected.
        """
        for one in fields_of(type(self)).values():
            value = getattr(self, one.name)
            read = one.read(value)
            if read is not value:
                object.__setattr__(self, one.name, read)

    def to_dict(self) -> dict[str, Any]:
        """{name: value} of what differs from its default."""
        found = {one.name: getattr(self, one.name) for one in fields_of(type(self)).values()}
        return {name: value for name, value in found.items() if value != getattr(type(self), name, None)}


def fields_of(kind: type[Options]) -> Mapping[str, OptionField]:
    """The options of a dataclass by name, in their order; a field without a help text is not an option."""
    hashable: Any = kind
    return _fields(hashable)


@cache
def _fields(kind: Any) -> Mapping[str, OptionField]:
    hints, found = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        if "help" in field.metadata:
            kinds, optional, choices = _read(hints[field.name])
            default = None if field.default is dataclasses.MISSING else field.default
            found[field.name] = OptionField(field.name, kinds, optional, choices, default, **field.metadata)
    return found


def _read(hint: Any) -> tuple[tuple[type, ...], bool, tuple[str, ...]]:
    """(types, whether None is one, closed set) of an annotation."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds: list[type] = []
    choices: list[str] = []
    for part in parts:
        origin = get_origin(part) or part
        if origin is Literal:
            choices += get_args(part)
            kinds.append(str)
        elif origin is not NoneType:
            kinds.append(tuple if origin is Sequence else origin)
    return tuple(kinds), NoneType in parts, tuple(choices) if len(kinds) == 1 else ()
