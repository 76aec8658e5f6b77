"""The form in which a result is stored: plain dictionaries, lists and numbers, read back by the types of its fields."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, Protocol, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from d90.files import Json

__all__ = ["Read", "Result", "Studies", "stored_results"]

Read = TypeVar("Read", bound="Result")


@dataclass(frozen=True)
class Result:
    """A frozen dataclass that a study gives, with `to_dict` and `from_dict`."""

    def to_dict(self) -> Json:
        """The fields by name, as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Json) -> Self:
        """What `to_dict` gave, after JSON or not. Unknown fields, of other versions, are left out.

        Raises:
            KeyError: a field without a default is missing.
            TypeError: a field of another type.
        """
        found: Self = _read(cls, body, cls.__name__)
        return found

    @classmethod
    def upgrade(cls, body: Json) -> Json:
        """`body` with what versions before this one did not write."""
        return body


class Studies(Protocol):
    """What keeps the results of studies: `d90.trials.store.Store`."""

    def reading(self) -> AbstractContextManager[None]:
        """While it is open, what cannot be read is an error of the store."""

    def studies(self, kind: str) -> Iterable[Json]:
        """The stored results of one kind, the oldest first."""


def stored_results(store: Studies, kind: type[Read], name: str) -> list[Read]:
    """Every result of a store's studies of one kind ("measure", "compare", ...), the oldest first.

    Raises:
        StoreError: a result that does not hold what d90 writes.
    """
    with store.reading():
        return [kind.from_dict(body) for body in store.studies(name)]


_hints = functools.cache(get_type_hints)


def _read(kind: Any, body: Any, place: str) -> Any:
    """A dataclass from the dictionary that `asdict` made of it."""
    if not isinstance(body, Mapping):
        raise TypeError(f"{place} is {body!r:.40}, expected the fields of {kind.__name__}")
    if issubclass(kind, Result):
        body = kind.upgrade(body)
    hints, given = _hints(kind), {}
    for field in fields(kind):
        if field.name in body:
            given[field.name] = _value(hints[field.name], body[field.name], f"{place}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise KeyError(f"{place}.{field.name}")
    return kind(**given)


def _value(kind: Any, value: Any, place: str) -> Any:
    """One field's value by its type; numbers stay as they are, so that what is shown of them stays."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (kind,) = (one for one in inner if one is not type(None))
        return _value(kind, value, place)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _read(kind, value, place)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise TypeError(f"{place} holds {len(value)} values, expected {len(kinds)}")
        return tuple(_value(one, item, place) for one, item in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {key: _value(inner[1], item, place) for key, item in value.items()}
    plain = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}.get(kind, ())
    if not isinstance(value, plain) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{place} is {value!r:.40}, expected {getattr(kind, '__name__', kind)}")
    return value
