"""Labels as files hold them: names of classes, or numbers; which of the two they are, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from d90.errors import InputError, quoted
from d90.tasks.columns import Table

__all__ = ["alike", "class_names", "class_numbers", "look_like_values", "number", "raw_labels", "values"]

MAX_CLASSES = 50_000
NEARLY_UNIQUE = 20  # classes from which more than half as many as examples are taken for something else
MAX_FLOAT = torch.finfo(torch.float32).max
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_CODE = re.compile(r"[+-]?0\d")  # a number does not begin so: 007, 008.45


def raw_labels(table: Table, key: str) -> tuple[list[Any], int]:
    """The label of each row, names without the spaces around them; and of how many spaces were taken away.

    Raises:
        InputError: a row without a label, or with one that is neither a name nor a number.
    """
    found, stripped = [], 0
    for i, row in enumerate(table.rows):
        value = row.get(key)
        if isinstance(value, bytes):
            value = _decoded(value, table.spot(i), key)
        if isinstance(value, str):
            bare = value.strip()
            stripped += bare != value
            value = bare
        if value is None or value == "" or (isinstance(value, float) and value != value):
            raise InputError(f"{table.spot(i)}: no label in column {quoted(key)}; every example needs one")
        if isinstance(value, list | dict):
            got = type(value).__name__
            raise InputError(
                f"{table.spot(i)}: column {quoted(key)} holds a {got}, expected a number or a name; choose with --label"
            )
        # 1.0 and 1 are one class, and so are the same column read from two kinds of file
        found.append(int(value) if isinstance(value, float) and value.is_integer() else value)
    return found, stripped


def number(value: Any) -> float | None:
    """A label as a number, as written in files; infinite where it is too large; None where it is no number."""
    if isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def look_like_values(found: Sequence[Any], table: Table) -> bool:
    """Whether labels are numbers and not all of them whole, so that a regression is meant.

    Text that a file with types (JSON, parquet) holds stays text, as the version "3.10"; so does text of a file without types
    where a leading zero shows a code, as 008.45.

    Raises:
        InputError: one that is not finite among numbers.
    """
    if any(isinstance(value, str) and (table.typed or _CODE.match(value)) for value in found):
        return False
    numbers = []
    for value in found:
        one = number(value)
        if one is None:
            return False
        numbers.append(one)
    _check_finite(numbers, found, table)
    return any(one != int(one) for one in numbers)


def class_names(found: Sequence[Any], table: Table, given: bool) -> tuple[str, ...]:
    """The classes, numbers in their order before names.

    Args:
        given: the user said that they are classes.

    Raises:
        InputError: so many that they are no classes.
    """
    names = {str(value) for value in found}
    if len(names) > MAX_CLASSES:
        raise InputError(
            f"{table.where}: {len(names):,} different labels, expected at most {MAX_CLASSES:,} classes. {_other(names)}"
        )
    if not given and len(names) > max(NEARLY_UNIQUE, len(found) // 2):
        raise InputError(
            f"{table.where}: {len(names):,} different labels in {len(found):,} examples, expected classes that repeat. "
            f"{_other(names)}, or --kind classification to take them as classes"
        )
    return tuple(sorted(names, key=_class_order))


def _other(names: set[str]) -> str:
    if all(number(name) is not None for name in names):
        return "They are numbers: use --kind regression to predict values"
    return "Likely cause: another column is meant; choose with --label"


def class_numbers(found: Sequence[Any], classes: tuple[str, ...], table: Table) -> Tensor:
    """Each label's class number (n,), int64.

    Raises:
        InputError: a label that is not among the classes; one that differs from a class in writing alone is named.
    """
    place = {label: i for i, label in enumerate(classes)}
    for i, value in enumerate(found):
        if str(value) not in place:
            known = ", ".join(quoted(name, 30)[1:-1] for name in classes[:20]) + (", ..." if len(classes) > 20 else "")
            near = next((name for name in classes if _same(name, str(value))), None)
            hint = f"; it differs from {quoted(near)} in writing alone: write both in one way" if near else ""
            raise InputError(
                f"{table.spot(i)}: label {quoted(value)} is not among the {len(classes)} training labels {known}{hint}"
            )
    return torch.tensor([place[str(value)] for value in found], dtype=torch.int64)


def alike(classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pairs of classes that differ in writing alone: "1" and "1.0", "Pos" and "pos"."""
    first: dict[str, str] = {}
    found = []
    for name in classes:
        other = first.setdefault(_written(name), name)
        if other != name:
            found.append((other, name))
    return found


def values(found: Sequence[Any], table: Table) -> Tensor:
    """Each label as a number (n,), fp32.

    Raises:
        InputError: a label that is no number, or not a finite one of fp32.
    """
    numbers = [number(value) for value in found]
    for i, one in enumerate(numbers):
        if one is None:
            raise InputError(f"{table.spot(i)}: label {quoted(found[i])} is no number, and the task is a regression")
    _check_finite(numbers, found, table)
    return torch.tensor(numbers, dtype=torch.float32)


def _check_finite(numbers: Sequence[float | None], found: Sequence[Any], table: Table) -> None:
    for i, one in enumerate(numbers):
        if one is not None and not abs(one) <= MAX_FLOAT:
            raise InputError(
                f"{table.spot(i)}: label {quoted(found[i], 30)} among numbers, expected a finite one below {MAX_FLOAT:.1e}; "
                "drop or mend the row"
            )


def _class_order(label: str) -> tuple[float, str]:
    one = number(label)
    return (math.inf if one is None or one != one else one, label)


def _written(name: str) -> str:
    one = number(name)
    return repr(one) if one is not None and math.isfinite(one) else " ".join(name.casefold().split())


def _same(name: str, other: str) -> bool:
    return _written(name) == _written(other)


def _decoded(value: bytes, spot: str, key: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InputError(
            f"{spot}: column {quoted(key)} holds bytes that are not UTF-8, expected a number or a name"
        ) from None
