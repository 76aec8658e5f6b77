"""CoNLL files: a word a line with its tag in the last column, a blank line behind each sentence."""

from __future__ import annotations

from pathlib import Path

from d90.errors import InputError
from d90.tasks.readers.lines import FileRows, numbered_lines

__all__ = ["read_conll"]


def read_conll(path: Path) -> FileRows:
    """Each sentence as a row of "tokens" and "tags", standing at its first line; columns are parted by tabs, or else by spaces.

    Lines that begin with -DOCSTART-, and comments of CoNLL-U ("# name = value"), are passed over.

    Raises:
        InputError: a line of another number of columns than those before, or of one alone.
    """
    found = FileRows()
    words: list[str] = []
    tags: list[str] = []
    begin = columns = 0
    for number, line in numbered_lines(path):
        bare = line.strip("\r\n")
        cells = [cell.strip() for cell in bare.split("\t")] if "\t" in bare else bare.split()
        if not any(cells) or cells[0] == "-DOCSTART-":
            if words:
                found.add(path, f"line {begin}", {"tokens": words, "tags": tags})
            words, tags = [], []
            continue
        if not words and cells[0] == "#" and "=" in cells:
            continue
        columns = columns or len(cells)
        if len(cells) != columns or columns < 2 or not cells[-1]:
            expected = f"{columns} as in the lines before" if columns > 1 else "a word and its tag"
            raise InputError(
                f"'{path}', line {number}: {len(cells)} columns, expected {expected}. Mend the line, or part columns by tabs"
            )
        begin = begin if words else number
        words.append(cells[0])
        tags.append(cells[-1])
    if words:
        found.add(path, f"line {begin}", {"tokens": words, "tags": tags})
    return found
