"""The options of a command, read from its function: a recipe names them as the command line does, and nothing stands twice."""

from __future__ import annotations

import inspect
import math
import shlex
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

from d90.errors import InputError, printable, unknown_name
from d90.files import Json
from d90.joined import JOINED, read_joined, split_joined

__all__ = ["Arguments", "Command", "Option", "command_of", "split"]

# options that hold several values in one text, and what stands between the values; a recipe may give a list
BETWEEN = {"methods": " ", "tasks": " ", "targets": "", "text": ",", **dict.fromkeys(JOINED, ",")}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path", list: "a list"}


class Arguments(SimpleNamespace):
    """What a command is called with: an attribute for each parameter of its function, every option by itself."""


@dataclass(frozen=True)
class Option:
    """One option or argument of a command.

    Attributes:
        name: of the function's parameter.
        names: on the command line, without dashes; the first is the one that is shown.
        kind: int, float, bool, str, Path, or list for a list of texts.
        default: None where nothing need be given, `inspect.Parameter.empty` where something must.
        positional: an argument, given without its name.
    """

    name: str
    names: tuple[str, ...]
    kind: type
    default: Any
    positional: bool
    optional: bool


@dataclass(frozen=True)
class Command:
    """A command by its function: `options` in the order of its parameters."""

    name: str
    function: Callable[..., None]
    options: tuple[Option, ...]

    def option(self, name: str) -> Option:
        """The option of this name.

        Raises:
            InputError: there is none; which there are.
        """
        found = next((option for option in self.options if name in option.names), None)
        if found is None:
            shown = [option.names[0] for option in self.options if not option.name.startswith("old_")]
            raise unknown_name(f"option of {self.name}", name, shown)
        return found

    def field(self, name: str) -> str:
        """The parameter that an option's name, of today or an earlier one, stands for.

        Raises:
            InputError: there is no such option.
        """
        found = self.option(name).name
        return self.renamed.get(found, found)

    def takes(self, name: str) -> bool:
        """Whether it has an option of this name."""
        return any(name in option.names for option in self.options)

    def arguments(self, options: Json) -> Arguments:
        """What its function takes: every parameter, what was not given at its default.

        Raises:
            InputError: an unknown option, a value of the wrong type, an argument that is missing, an option given twice.
        """
        given = {}
        for name, value in options.items():
            option = self.option(name)
            today = next(one for one in self.options if one.name == self.field(name))
            if today.name in given:
                both = dict.fromkeys([*today.names, *option.names])
                raise InputError(f"got {' and '.join(both)}, which are two names of one option; give one of them")
            if today is not option:
                typer.echo(printable(f"note: {name} is now called {today.names[0]}"), err=True)
            given[today.name] = _typed(today, name, value)
        for option in self.options:
            if option.name not in given and option.default is inspect.Parameter.empty:
                raise InputError(
                    f"got no {option.names[0]}, expected one: {self.name} needs it. Add it to the study's options"
                )
        return Arguments(**{option.name: given.get(option.name, option.default) for option in self.options})

    @property
    def renamed(self) -> Mapping[str, str]:
        """{option in an earlier spelling: today's}, by parameter."""
        found: Mapping[str, str] = getattr(self.function, "renamed", {})
        return found

    def whole(self, arguments: Arguments) -> SimpleNamespace:
        """What its function takes, as attributes: single options put together to the dataclasses that check them.

        Raises:
            InputError: a value that an option cannot have.
        """
        gather = getattr(self.function, "gather", dict)
        return SimpleNamespace(**gather(vars(arguments)))

    def line(self, arguments: Arguments) -> list[str]:
        """The command line, without 'd90', that does the same."""
        positional = [option for option in self.options if option.positional]
        while positional and getattr(arguments, positional[-1].name) == positional[-1].default:
            positional.pop()
        words = [self.name]
        for option in positional:
            value = getattr(arguments, option.name)
            words += value if option.kind is list else [str(value)]
        for option in self.options:
            value = getattr(arguments, option.name)
            if option.positional or value == option.default:
                continue
            flag = f"--{option.names[0]}"
            if option.kind is bool:
                words.append(flag if value else f"--no-{option.names[0]}")
            else:
                words += [flag, str(value)]
        return words


def command_of(function: Callable[..., None]) -> Command:
    """Read a command's options from its function, as typer does."""
    hints = get_type_hints(function, include_extras=True)
    options = []
    for parameter in inspect.signature(function).parameters.values():
        kind, *marks = get_args(hints[parameter.name])
        declared = next(mark for mark in marks if isinstance(mark, typer.models.ParameterInfo))
        # typer takes an Annotated option's first name for its default
        texts = (declared.default, *(declared.param_decls or ()))
        long = tuple(text[2:].split("/")[0] for text in texts if isinstance(text, str) and text.startswith("--"))
        optional = get_origin(kind) in (Union, types.UnionType)
        bare = next(part for part in get_args(kind) if part is not type(None)) if optional else kind
        options.append(
            Option(
                parameter.name,
                long or (parameter.name.replace("_", "-"),),
                get_origin(bare) or bare,
                parameter.default,
                isinstance(declared, typer.models.ArgumentInfo),
                optional,
            )
        )
    return Command(function.__name__, function, tuple(options))


def split(name: str, text: str) -> list[str]:
    """The values that one text of a joined option holds."""
    return split_joined(text, BETWEEN[name].strip() or None)


def _typed(option: Option, name: str, value: Any) -> Any:
    """A value as its function takes it."""
    if value is None and option.optional:
        return None
    if option.kind is list:
        return _texts(name, value)
    if option.kind in (str, Path):
        if isinstance(value, list) and option.name in BETWEEN:
            value = BETWEEN[option.name].join(_texts(name, value))
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _wrong(option, name, value)
        text = str(value)
        _check_joined(option.name, name, text)
        return Path(text) if option.kind is Path else text
    if option.kind is bool:
        if not isinstance(value, bool):
            raise _wrong(option, name, value)
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong(option, name, value)
    try:
        # YAML reads 1e-3 as a text, and a variable is one
        number = float(value) if option.kind is float else int(value) if isinstance(value, str) else value
    except ValueError:
        raise _wrong(option, name, value) from None
    if not math.isfinite(number) or (option.kind is int and not isinstance(number, int)):
        raise _wrong(option, name, value)
    return number


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return shlex.split(value)
    if not isinstance(value, list) or not all(
        isinstance(part, str | int | float) and not isinstance(part, bool) for part in value
    ):
        raise InputError(f"got {name}: {_shown(value)}, expected a text, or a list of texts or numbers")
    return [str(part) for part in value]


def _check_joined(parameter: str, name: str, text: str) -> None:
    """Refuse, before anything is trained, what the command would refuse when its turn comes."""
    if parameter in JOINED:
        read_joined(parameter, text, name)


def _wrong(option: Option, name: str, value: Any) -> InputError:
    listed = " or a list" if option.name in BETWEEN and option.kind is str else ""
    return InputError(f"got {name}: {_shown(value)}, expected {WORDS[option.kind]}{listed}")


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
