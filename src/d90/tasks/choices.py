"""Questions with choices as data sets write them: which columns hold them, and each row's choices and the place of the right one."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from d90.errors import InputError, quoted
from d90.tasks.columns import Columns, Table, check_text
from d90.tasks.readers import Row

__all__ = ["choices_of", "has_choices", "passages_of", "questions_with_choices", "right_place"]

QUESTIONS = ("question", "question_stem", "ctx", "startphrase", "premise", "goal")
LISTS = ("choices", "options", "endings")
NUMBERED = re.compile(r"(choice|option|ending|sol|answer)_?[0-9A-E]")
ANSWERS = ("answer", "answerKey", "label", "answer_key")
CONTEXTS = ("article", "passage", "context")  # stands before the question, where it is there


def has_choices(row: Row, columns: Columns) -> bool:
    """Whether a row holds choices: a list of texts, {"text": [...]}, or numbered columns (choice1, ending0, sol1)."""
    return question_of(row, columns) is not None and _where(row) is not None


def question_of(row: Row, columns: Columns) -> str | None:
    """The column of the question: the one that was named, or the first usual one."""
    if columns.text:
        return columns.text[0] if columns.text[0] in row else None
    return next((name for name in QUESTIONS if isinstance(row.get(name), str)), None)


def _where(row: Row) -> tuple[str, ...] | None:
    """The column of the list of choices, or the numbered columns."""
    for name in LISTS:
        value = row.get(name)
        held = value.get("text") if isinstance(value, Mapping) else value
        if isinstance(held, list):
            return (name,)
    numbered = tuple(name for name in row if NUMBERED.fullmatch(name))
    return numbered if len(numbered) > 1 else None


def questions_with_choices(table: Table, columns: Columns) -> list[tuple[str, ...]]:
    """Each row's question and its choices.

    Raises:
        InputError: a row without them, or with another number of choices than the first one.
    """
    first = table.rows[0]
    name, where = question_of(first, columns), _where(first)
    if name is None or where is None:
        lacks = "no column of questions (question; name it with --text)" if name is None else "no choices"
        shown = ", ".join(quoted(one)[1:-1] for one in list(first)[:20])
        raise InputError(f"{table.where}: {lacks}; it has {shown}, expected question, choices (a list) and answer")
    passages = passages_of(table, columns)
    found: list[tuple[str, ...]] = []
    for i, row in enumerate(table.rows):
        spot = table.spot(i)
        question = _text(row.get(name), name, spot)
        if passages is not None:
            question = f"{passages[i]} {question}"
        choices = choices_of(row, where, spot)
        if found and len(choices) != len(found[0]) - 1:
            raise InputError(
                f"{spot}: {len(choices)} choices and {table.place(0)} has {len(found[0]) - 1}, expected as many everywhere; drop the "
                "row, or repeat one of its choices"
            )
        found.append((question, *choices))
    return found


def passages_of(table: Table, columns: Columns) -> list[str] | None:
    """The passage that each row's question is on; None where there is no column of them.

    Raises:
        InputError: a row without one.
    """
    first, question = table.rows[0], question_of(table.rows[0], columns)
    name = next((one for one in CONTEXTS if isinstance(first.get(one), str) and one != question), None)
    return (
        None if name is None else [check_text(row.get(name), name, table.spot(i)) for i, row in enumerate(table.rows)]
    )


def choices_of(row: Row, where: Sequence[str], spot: str) -> list[str]:
    """The choices of one row, in their order.

    Raises:
        InputError: no list, fewer than two, or one without a text.
    """
    if len(where) > 1:
        return [_text(row.get(name), name, spot) for name in where]
    value = row.get(where[0])
    held = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(held, list) or len(held) < 2:
        got = f"{len(held)} choice" if isinstance(held, list) else "no list"
        raise InputError(f"{spot}: column {quoted(where[0])} holds {got}, expected two choices at least")
    return [_text(one, where[0], spot) for one in held]


def _text(value: Any, name: str, spot: str) -> str:
    text = check_text(value, name, spot)
    if not text.strip():
        raise InputError(f"{spot}: an empty text in {quoted(name)}, expected a question and its choices; drop the row")
    return text


def right_place(table: Table, columns: Columns, found: Sequence[tuple[str, ...]]) -> list[int]:
    """Which choice of each row is right, from 0: by its number, its letter, its key among `choices["label"]`, or its text.

    Numbers count from 0, unless they reach the number of choices and 0 is not among them.

    Raises:
        InputError: no such column, or an answer that is none of the row's choices.
    """
    names = (columns.given_label,) if columns.given_label else ANSWERS
    name = next((one for one in names if one in table.rows[0]), None)
    if name is None:
        raise InputError(f"{table.where}: no column of answers ({names[0]}); name it with --label")
    values = [row.get(name) for row in table.rows]
    numbers = [_number(value) for value in values]
    most = len(found[0]) - 1
    known = [number for number in numbers if number is not None]
    first = 1 if len(known) == len(values) and min(known) == 1 and max(known) == most else 0
    places = []
    for i, (value, texts) in enumerate(zip(values, found, strict=True)):
        place = _place(value, numbers[i], table.rows[i], texts[1:], first)
        if place is None:
            letters = ", ".join(string.ascii_uppercase[:most])
            raise InputError(
                f"{table.spot(i)}: the answer {quoted(str(value), 40)} in column {quoted(name)} is none of the {most} choices; expected "
                f"its number from {first}, its letter ({letters}), or its text"
            )
        places.append(place)
    return places


def _number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return int(value) if isinstance(value, int | float) and float(value).is_integer() else None


def _place(value: Any, number: int | None, row: Row, choices: Sequence[str], first: int) -> int | None:
    keys = next((row[name].get("label") for name in LISTS if isinstance(row.get(name), Mapping)), None)
    if isinstance(keys, list) and str(value) in [str(key) for key in keys]:
        return [str(key) for key in keys].index(str(value))
    if isinstance(value, str) and value in choices:
        return choices.index(value)
    if number is not None:
        return number - first if 0 <= number - first < len(choices) else None
    letter = value.strip().upper() if isinstance(value, str) else ""
    place = string.ascii_uppercase.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(choices) else None
