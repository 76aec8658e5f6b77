"""The fields of a method: their types, defaults and closed sets, for the grammar, for lists and for errors.

A method is a frozen dataclass; what its fields say in annotations (`int`, `float | None`, `Literal["code", "paper"]`) is
read here, once, and checked whether the value came from a text or from Python.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from d90.errors import InputError, unknown_name

__all__ = ["Field", "check_value", "fields_of", "read_value"]

WORDS = {int: "an integer", float: "a number", str: "a word", bool: "true or false"}


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        kind: int, float, str or bool.
        optional: whether None is a value.
        choices: the closed set of a word; empty where any will do.
        default: of the constructor.
    """

    name: str
    kind: type
    optional: bool
    choices: tuple[str, ...]
    default: Any


@cache
def fields_of(kind: type) -> dict[str, Field]:
    """The fields that a method's constructor takes, by name; without `*args` and `**kwargs`."""
    own = "__new__" if "__new__" in vars(kind) else "__init__"
    hints = get_type_hints(kind.__new__ if own == "__new__" else kind)
    parameters = list(inspect.signature(getattr(kind, own)).parameters.values())[1:]
    plain = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: _field(p.name, hints.get(p.name, str), p.default) for p in plain if p.name != "config"}


def _field(name: str, hint: Any, default: Any) -> Field:
    given = get_args(hint) if get_origin(hint) not in (None, Literal) else (hint,)
    kinds = [kind for kind in given if kind is not NoneType]
    choices = tuple(get_args(kinds[0])) if get_origin(kinds[0]) is Literal else ()
    return Field(name, str if choices else kinds[0], NoneType in given, choices, default)


def read_value(field: Field, text: str, method: str) -> Any:
    """A value out of its text.

    Raises:
        InputError: it is not of the field's type, or not in its set.
    """
    try:
        if field.kind is bool:
            value: Any = {"true": True, "false": False}[text.lower()]
        else:
            value = field.kind(text)
    except (ValueError, KeyError):
        raise InputError(f"method '{method}': got {field.name}={text}, expected {WORDS[field.kind]}") from None
    return value


def check_value(field: Field, value: Any, method: str) -> None:
    """Refuse a value of another type, or outside the set.

    Raises:
        InputError: as said.
    """
    if value is None and field.optional:
        return
    fits = isinstance(value, field.kind) or (field.kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and field.kind is not bool):
        more = " or None" if field.optional else ""
        raise InputError(f"{method}: got {field.name}={value!r}, expected {WORDS[field.kind]}{more}")
    if field.choices and value not in field.choices:
        raise unknown_name(f"{field.name} of {method}", value, field.choices)
