"""JSON: an object a line, or one array of objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.tasks.readers.lines import FileRows, Row, numbered_lines, read_all

__all__ = ["read_json", "read_json_lines"]

PARAGRAPHS = "paragraphs"


def read_json_lines(path: Path) -> FileRows:
    """Rows of a file with an object a line; blank lines are passed over.

    Raises:
        InputError: what is wrong in which line.
    """
    found = FileRows()
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"'{path}', line {number}: malformed JSON ({_plain(error)}); expected one object a line"
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"'{path}', line {number}: got a {type(row).__name__}, expected one JSON object a line")
        found.add(path, f"line {number}", row)
    return found


def read_json(path: Path) -> FileRows:
    """Rows of a .json file: an array of objects, an object with one such array in it, or an object a line; of SQuAD's own form
    (data, paragraphs, qas) a row for each question.

    Raises:
        InputError: none of these, or what is wrong in it.
    """
    if _is_lines(path):
        return read_json_lines(path)
    try:
        value = json.loads(read_all(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}': malformed JSON ({_plain(error)}); expected an array of objects") from None
    rows = _array(value)
    if rows is None:
        got = f"an object with {', '.join(map(str, list(value)[:5]))}" if isinstance(value, dict) else "another value"
        raise InputError(f"'{path}': got {got}, expected an array of objects, or an object a line (.jsonl)")
    found = FileRows()
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"'{path}', item {number}: got a {type(row).__name__}, expected an object")
        if PARAGRAPHS in row:
            _add_questions(found, path, f"item {number}", row)
        else:
            found.add(path, f"item {number}", row)
    return found


def _add_questions(found: FileRows, path: Path, place: str, article: Row) -> None:
    """A row for each question of an article in SQuAD's own form: paragraphs, each a context and its qas.

    Raises:
        InputError: which paragraph or question has another form.
    """
    for number, paragraph in enumerate(_objects(article[PARAGRAPHS], path, f"{place}, {PARAGRAPHS}"), start=1):
        where = f"{place}, paragraph {number}"
        for i, question in enumerate(_objects(paragraph.get("qas"), path, f"{where}, qas"), start=1):
            row = {"context": paragraph.get("context"), **question}
            found.add(path, f"{where}, question {i}", row)


def _objects(value: Any, path: Path, place: str) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError(
            f"'{path}', {place}: no list of objects, expected SQuAD's form: paragraphs, each with context and qas"
        )
    return value


def _is_lines(path: Path) -> bool:
    """Whether the first line that is not blank is an object of its own and not the only thing in the file."""
    lines = (line for _, line in numbered_lines(path) if line.strip())
    first, second = next(lines, ""), next(lines, None)
    if not first.lstrip().startswith("{"):
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return second is not None or _array(value) is None


def _array(value: Any) -> list[Any] | None:
    """The array of rows: the value itself, or the one list of objects among an object's values."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)]
        return lists[0] if len(lists) == 1 else None
    return None


def _plain(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
