"""What the Python API says of its fields, in the command line's spelling: epochs=0 becomes --epochs 0."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

__all__ = ["as_options", "option_names"]


def option_names(command: Callable[..., Any]) -> dict[str, str]:
    """{parameter: its option with dashes} of a command's function; arguments are left out."""
    hints = get_type_hints(command, include_extras=True)
    found = {}
    for name in inspect.signature(command).parameters:
        declared = next((mark for mark in get_args(hints[name])[1:] if hasattr(mark, "param_decls")), None)
        if declared is None or type(declared).__name__ == "ArgumentInfo":
            continue
        texts = (declared.default, *(declared.param_decls or ()))
        long = [text for text in texts if isinstance(text, str) and text.startswith("--")]
        found[name] = long[0] if long else f"--{name.replace('_', '-')}"
    return found


def as_options(message: str, command: Callable[..., Any]) -> str:
    """A message whose fields of the Python API, as rule='gain', read as the command's options, --rule gain."""
    names = option_names(command)
    if not names:
        return message
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    # a method's own keys follow ':', ',' or '@', as in lora:r=8
    fields = re.compile(rf"(?<![\w:@,='\"./-])({known})=('([^']*)'|\"([^\"]*)\"|[^\s,;:)]+)")

    def option(match: re.Match[str]) -> str:
        value = match[3] if match[3] is not None else match[4] if match[4] is not None else match[2]
        return f"{names[match[1]]} {value}"

    return fields.sub(option, message)
