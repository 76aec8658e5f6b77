"""A command's option dataclasses become its options: each field with its type, default, help text and spelling."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from d90.errors import InputError, printable
from d90.joined import join, read_joined
from d90.options import OptionField, Options, fields_of

__all__ = ["expanded", "options_of"]


def expanded(*, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: a parameter whose default is an `Options` becomes an option for each of its fields.

    The command itself is called with whole options. An earlier spelling works too, is not shown, and prints a notice.

    Args:
        without: fields that make no sense for this command; they keep their defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        groups = {name: one.default for name, one in signature.parameters.items() if isinstance(one.default, Options)}
        fields = {name: options_of(group, without) for name, group in groups.items()}

        def gather(given: Mapping[str, Any]) -> dict[str, Any]:
            """What the command is called with: fields put together to whole options, which check them."""
            whole = dict(given)
            for name, group in groups.items():
                values = {}
                for field in fields[name]:
                    value = _given(field, getattr(group, field.name), whole)
                    values[field.name] = (
                        read_joined(field.joined, value) if field.joined and value is not None else value
                    )
                whole[name] = replace(group, **values)
            return whole

        @wraps(command)
        def run(*args: Any, **given: Any) -> None:
            command(*args, **gather(given))

        run.gather = gather  # type: ignore[attr-defined]
        old = {_name(flag): field.name for found in fields.values() for field in found for flag in field.old}
        run.renamed = old  # type: ignore[attr-defined]
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            if name not in groups:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            for field in fields[name]:
                parameters += _parameters(field, getattr(groups[name], field.name))
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def options_of(group: Options, without: Sequence[str] = ()) -> list[OptionField]:
    """The fields of options that a command shows."""
    return [field for field in fields_of(type(group)).values() if field.shown and field.name not in without]


def _parameters(field: OptionField, default: Any) -> list[inspect.Parameter]:
    """The command's parameter for a field, and a hidden one for each earlier spelling."""
    kind: Any = _kind(field)
    if field.joined and default is not None:
        default = join(default)
    elif kind is str and default is not None:
        default = str(default)
    hint: Any = Optional[kind] if default is None else kind  # noqa: UP045 (made at run time)
    kept = Annotated[hint, typer.Option(*field.flags, help=field.help)]
    found = [inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kept)]
    for flag in field.old:
        spelled = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        old = Annotated[Optional[kind], typer.Option(spelled, hidden=True)]  # noqa: UP045
        found.append(inspect.Parameter(_name(flag), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=old))
    return found


def _kind(field: OptionField) -> Any:
    """What the command line reads: a text where a field may be a text or a number, or holds several."""
    if os.PathLike in field.kinds:
        return Path
    return str if field.joined or len(field.kinds) > 1 else field.kinds[0]


def _name(flag: str) -> str:
    return f"old_{flag[2:].replace('-', '_')}"


def _given(field: OptionField, default: Any, given: dict[str, Any]) -> Any:
    """A field's value, taken out of what was given, in today's spelling or an earlier one.

    Raises:
        InputError: both, with different values.
    """
    value = given.pop(field.name)
    today = field.flags[0] if field.flags else f"--{field.name.replace('_', '-')}"
    for flag in field.old:
        old = given.pop(_name(flag), None)
        if old is None:
            continue
        if value not in (default, old):
            raise InputError(
                f"got {today} {value} and {flag} {old}, which are two names of one option; leave {flag} out"
            )
        typer.echo(printable(f"note: {flag} is now called {today}"), err=True)
        value = old
    return value
