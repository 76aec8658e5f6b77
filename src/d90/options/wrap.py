"""A function that takes options takes their fields as keywords too: `measure(model, task, epochs=2)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from d90.errors import unknown_name
from d90.options.base import Options

__all__ = ["from_fields", "with_options"]

P = ParamSpec("P")
R = TypeVar("R")


def with_options(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose parameters that have `Options` as defaults take single fields as keywords too.

    The keywords are put into the options, so that the function itself sees whole ones; `inspect.signature`, `help` and notebooks
    show each field with its default. `columns={"label": "y"}`, as tasks were read before, is taken apart.

    Raises:
        InputError: on a call, an unknown keyword, or a value that an option cannot have.
    """
    signature = inspect.signature(function)
    groups: dict[str, Options] = {
        name: one.default for name, one in signature.parameters.items() if isinstance(one.default, Options)
    }
    plain = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    own = {one.name for one in plain}

    @wraps(function)
    def run(*args: Any, **given: Any) -> Any:
        loose = {name: value for name, value in given.items() if name not in own}
        call: dict[str, Any] = {name: value for name, value in given.items() if name in own}
        whole = [default if call.get(name) is None else call[name] for name, default in groups.items()]
        call |= zip(groups, from_fields(loose, *whole, others=own - groups.keys() - {"self"}), strict=True)
        return function(*args, **call)

    shown = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=getattr(group, field.name), annotation=field.type
        )
        for group in groups.values()
        for field in fields(group)
    ]
    run.__signature__ = signature.replace(parameters=[*plain, *shown])  # type: ignore[attr-defined]
    return run


def from_fields(given: Mapping[str, Any], *groups: Options, others: Iterable[str] = ()) -> list[Any]:
    """The options, with single fields in place of theirs; `columns={"label": "y"}` counts as its own fields.

    Args:
        others: names that an error lists besides.

    Raises:
        InputError: a name that no option has, or a value that an option cannot have.
    """
    loose = {**(given.get("columns") or {}), **{name: value for name, value in given.items() if name != "columns"}}
    names = [[field.name for field in fields(group)] for group in groups]
    known = [name for found in names for name in found]
    unknown = next((name for name in loose if name not in known), None)
    if unknown is not None:
        raise unknown_name("option", unknown, [*known, *others])
    return [
        replace(group, **{name: loose[name] for name in found if name in loose})
        for group, found in zip(groups, names, strict=True)
    ]
