"""CSV, quoted, with commas, semicolons or tabs between fields; TSV, unquoted: a quote in it is a letter like any other."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from d90.errors import InputError, quoted
from d90.tasks.readers.lines import MAX_LINE, FileRows, numbered_lines

__all__ = ["read_csv", "read_tsv"]

MAX_COLUMNS = 10_000
_QUOTED = re.compile(r'"[^"]*"')
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def read_csv(path: Path) -> FileRows:
    """Rows of a CSV file; fields may hold line ends inside quotes.

    Raises:
        InputError: what is wrong in which line; of a quote that is never closed, where its row begins.
    """
    found = FileRows(typed=False)
    lines = (line for _, line in numbered_lines(path))
    first = next(lines, "")
    skipped = 0
    if re.fullmatch(r"\s*sep=.\s*", first):  # as Excel writes it
        skipped, delimiter = 1, first.strip()[-1]
        first = next(lines, "")
    else:
        delimiter = _delimiter(first)
    if delimiter != ",":
        found.notes.append(f"'{path.name}': fields are separated by {_NAMES.get(delimiter, quoted(delimiter))}s")
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    begins = 1
    try:
        for row in reader:
            begins, ends = begins + skipped, reader.line_num + skipped
            if header is None and row:
                header = _header(path, row)
            elif row and header is not None:
                if len(row) != len(header):
                    raise _wrong_count(path, begins, ends, len(row), header, delimiter)
                found.add(path, f"line {begins}", dict(zip(header, row, strict=True)))
                if ends - begins > 1 and _swallowed(row, delimiter, len(header)):
                    found.notes.append(
                        f"'{path.name}', line {begins}: one field holds {ends - begins} line ends and rows of its own. "
                        "Likely cause: a stray quote at the field's start"
                    )
            begins = reader.line_num + 1
    except csv.Error as error:
        begins += skipped
        if "unexpected end" in str(error):
            raise InputError(
                f"'{path}', line {begins}: a quote that opens in this row is never closed, malformed to the file's end; "
                "check the quotes of this line (a quote inside a quoted field is written twice)"
            ) from None
        raise InputError(
            f"'{path}', line {begins}: malformed ({_plain(error)}, at line {reader.line_num + skipped}); check the quotes"
        ) from None
    return found


def read_tsv(path: Path) -> FileRows:
    """Rows of a TSV file: what lies between tabs, quotes included.

    Raises:
        InputError: what is wrong in which line.
    """
    found = FileRows(typed=False)
    header: list[str] | None = None
    in_quotes = 0
    for number, line in _text_lines(path):
        row = line.split("\t")
        if header is None:
            header = _header(path, row)
        elif len(row) != len(header):
            raise _wrong_count(path, number, number, len(row), header, "\t")
        else:
            in_quotes += any(len(field) > 1 and field[0] == field[-1] == '"' for field in row)
            found.add(path, f"line {number}", dict(zip(header, row, strict=True)))
    if in_quotes:
        found.notes.append(
            f"'{path.name}': {in_quotes:,} rows have a field between quotes, which are part of the text in TSV; where they "
            "are not, save the file as CSV"
        )
    return found


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, without their ends."""
    for number, line in numbered_lines(path):
        text = line.rstrip("\r\n")
        if text.strip(" "):
            yield number, text


def _delimiter(first: str) -> str:
    """What separates the header's fields: the commonest of comma, semicolon and tab outside quotes; a comma where none is there."""
    bare = _QUOTED.sub("", first)
    return max(_NAMES, key=bare.count)  # of equal counts the first


def _header(path: Path, row: list[str]) -> list[str]:
    if len(row) > MAX_COLUMNS:
        raise InputError(f"'{path}': {len(row):,} columns, expected at most {MAX_COLUMNS:,}; is it a table?")
    header = [name.strip() for name in row]
    seen: set[str] = set()
    for name in header:
        if name in seen:
            raise InputError(f"'{path}': two columns are called {quoted(name)}, expected different ones; rename one")
        seen.add(name)
    return header


def _swallowed(row: list[str], delimiter: str, fields: int) -> bool:
    """Whether a field of several lines looks as if it held whole rows."""
    for field in row:
        inner = field.splitlines()[1:-1]
        if inner and fields > 1 and all(line.count(delimiter) == fields - 1 for line in inner):
            return True
    return False


def _wrong_count(path: Path, begins: int, ends: int, got: int, header: list[str], delimiter: str) -> InputError:
    where = f"line {begins}" if ends == begins else f"line {begins} to {ends}"
    name = _NAMES.get(delimiter, quoted(delimiter))
    advice = f"quote texts that hold a {name}"
    if delimiter == "\t" and path.name.lower().removesuffix(".gz").endswith(".tsv"):
        advice = "replace tabs and line ends inside texts by spaces, or save it as CSV"
    if ends > begins:
        advice = f"a quote that opens at line {begins} closes lines later: check it"
    return InputError(f"'{path}', {where}: {got} fields, expected {len(header)} as in its header; {advice}")


def _plain(error: csv.Error) -> str:
    return str(error).replace("'\"'", "a quote")
