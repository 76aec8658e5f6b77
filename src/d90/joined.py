"""Values that one text of an option holds, joined by commas: how each option's are read, on the command line and in recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from d90.errors import InputError

__all__ = ["JOINED", "Joined", "join", "read_joined", "split_joined"]


def split_joined(text: str, separator: str | None = ",") -> list[str]:
    """The parts of a text without the spaces around them; empty ones are left out. A separator of None is any space."""
    return [part.strip() for part in text.split(separator) if part.strip()]


def _whole(part: str) -> int:
    if not part.isdecimal():
        raise ValueError(part)
    return int(part)


def _positive(part: str) -> int:
    if _whole(part) < 1:
        raise ValueError(part)
    return int(part)


def _factor(part: str) -> float:
    if not 0 < float(part) < math.inf:
        raise ValueError(part)
    return float(part)


def _size(part: str) -> tuple[int, int]:
    batch, _, length = part.partition("x")
    return _whole(batch), _whole(length)


def _count(part: str) -> int | None:
    return None if part == "all" else _whole(part)


@dataclass(frozen=True)
class Joined:
    """One option's values: how a part is read, what is expected in words, and an example; `empty`, whether there may be none."""

    read: Callable[[str], Any]
    expected: str
    example: str
    empty: bool = False


JOINED = {
    "dims": Joined(_whole, "whole numbers", "100,1000", empty=True),
    "levels": Joined(_whole, "whole numbers", "3,5,9"),
    "ranks": Joined(_positive, "positive whole numbers", "1,4,8"),
    "r": Joined(_whole, "whole numbers", "16,64"),
    "counts": Joined(_count, "whole numbers and 'all'", "100,1000,all"),
    "rates": Joined(_factor, "positive numbers", "0.3,1,3"),
    "pairs": Joined(_size, "BATCHxTOKENS", "1x128,16x256"),
}


def join(values: Iterable[Any]) -> str:
    """The text that an option holds such values in: the inverse of `read_joined`."""
    return ",".join(map(_text, values))


def _text(value: Any) -> str:
    if value is None:
        return "all"
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"


def read_joined(name: str, text: str, shown: str = "") -> list[Any]:
    """The values in an option's text, in the type that the option's form says.

    Args:
        name: a key of `JOINED`.
        shown: the option as the user typed it; "--NAME" by default.

    Raises:
        InputError: a part that does not fit, or no part where some are needed.
    """
    form, parts, shown = JOINED[name], split_joined(text), shown or f"--{name}"
    expected = f"expected {form.expected} joined by commas, as in {form.example}"
    values = []
    for part in parts:
        try:
            values.append(form.read(part))
        except ValueError:
            raise InputError(f"got '{part}' among {shown}, {expected}") from None
    if not values and not form.empty:
        raise InputError(f"got {shown} '{text}', {expected}")
    return values
