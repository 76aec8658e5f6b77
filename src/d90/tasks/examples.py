"""Texts to predict: a table with its text columns, or plain text with an example a line, read as training data is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d90.errors import InputError
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds import Classification, TaskKind
from d90.tasks.readers import ending_of, numbered_lines, read_rows

__all__ = ["Examples", "read_examples"]


@dataclass(frozen=True)
class Examples:
    """Texts, the same number of each example, and where each stands in its file ("line 3")."""

    texts: list[tuple[str, ...]]
    places: list[str]


def read_examples(path: Path, columns: Columns, width: int, kind: type[TaskKind] = Classification) -> Examples:
    """The examples of a file, in its order; lines that are blank are passed over and counted.

    Args:
        path: a table of any format that tasks are read from, or plain text: an example a line, a tab between the texts of a pair.
        columns: names the text columns of a table; usual names by default.
        width: texts of an example.
        kind: of task: reads the texts of a table.

    Raises:
        InputError: what is wrong in which line; another number of texts than `width`; no example.
    """
    found = _table(path, columns, width, kind) if ending_of(path) is not None else _lines(path, width)
    if not found.texts:
        raise InputError(f"'{path}': empty, expected an example a line")
    return found


def _table(path: Path, columns: Columns, width: int, kind: type[TaskKind]) -> Examples:
    rows = read_rows(path)
    if not rows.rows:
        return Examples([], [])
    table = Table(rows.rows, f"'{path}'", rows.places, rows.typed)
    return Examples(kind.given_texts(table, columns, width), rows.places)


def _lines(path: Path, width: int) -> Examples:
    found = Examples([], [])
    for number, line in numbered_lines(path):
        bare = line.rstrip("\r\n")
        if not bare.strip():
            continue
        texts = tuple(bare.split("\t")) if width > 1 else (bare,)
        if len(texts) != width:
            raise InputError(
                f"'{path}', line {number}: {len(texts)} texts, expected {width} with a tab between, as in training"
            )
        found.texts.append(texts)
        found.places.append(f"line {number}")
    return found
