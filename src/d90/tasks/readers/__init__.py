"""Rows of a file, by its ending: JSON, JSON Lines, CSV, TSV, CoNLL, parquet; gzipped or not.

Every reader gives where each row stands, keeps to bounds on lines, rows and bytes, and says what is wrong in which file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from d90.errors import InputError
from d90.tasks.readers.conll import read_conll
from d90.tasks.readers.delimited import read_csv, read_tsv
from d90.tasks.readers.jsons import read_json, read_json_lines
from d90.tasks.readers.lines import FileRows, Row, check_regular, numbered_lines
from d90.tasks.readers.parquet import read_parquet

__all__ = ["ENDINGS", "FileRows", "Row", "check_regular", "ending_of", "find_split", "numbered_lines", "read_rows"]

_READERS: dict[str, Callable[[Path], FileRows]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".conll": read_conll,
}
ENDINGS = (*(f"{ending}{gz}" for ending in _READERS for gz in ("", ".gz")), ".parquet")


def ending_of(path: str | Path, endings: Sequence[str] = ENDINGS) -> str | None:
    """The known ending of a file's name, in lower case; None where it has none."""
    name = Path(path).name.lower()
    return max((end for end in endings if name.endswith(end)), key=len, default=None)


def read_rows(path: Path) -> FileRows:
    """All rows of a file, and where each stands.

    Raises:
        InputError: an unknown ending; not a file; what is wrong in which line.
    """
    ending = ending_of(path)
    if ending is None:
        raise InputError(f"'{path}': expected a file ending in {', '.join(ENDINGS)}")
    check_regular(path)
    if path.stat().st_size == 0:
        raise InputError(f"'{path}': empty file, expected at least one example")
    return read_parquet(path) if ending == ".parquet" else _READERS[ending.removesuffix(".gz")](path)


def find_split(folder: Path, names: Sequence[str], endings: Sequence[str] = ENDINGS) -> Path | None:
    """The one file of a split in a folder, by any of its names and endings, in any case; None where there is none.

    Raises:
        InputError: there are two.
    """
    wanted = {f"{name}{end}" for name in names for end in endings}
    order = {name: place for place, name in enumerate(names)}
    found = sorted(
        (file for file in folder.iterdir() if file.name.lower() in wanted and not file.is_dir()),
        key=lambda file: (order[file.name.lower().split(".")[0]], file.name),
    )
    if len(found) > 1:
        both = f"{found[0].name} and {found[1].name}"
        raise InputError(f"'{folder}' has {both}, expected one file for a split; remove one")
    return found[0] if found else None
