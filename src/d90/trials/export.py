"""A store as a table: the view `runs` as CSV or parquet, or a spreadsheet with a sheet for each study."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.files import Json, replaced
from d90.trials.store import Store

__all__ = ["ENDINGS", "export", "spreadsheet_cell"]

ENDINGS = (".csv", ".parquet", ".xlsx")
SHOWN = ("kind", "model", "task", "method", "metric", "rule", "fraction", "within", "status", "d90", "interval", "coverage", "sure",
         "confirmed", "baseline", "threshold", "majority", "zero", "D", "lambdas", "spent", "seconds", "test", "command")  # fmt: skip
LONGEST = 31  # letters in a sheet's name


def export(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write a row for each trial; in a spreadsheet a sheet of the studies and one for each study as well.

    Raises:
        InputError: another ending; no trials; for .xlsx, openpyxl is not installed.
    """
    import pandas

    target = Path(path)
    if target.suffix not in ENDINGS:
        raise InputError(f"got '{target.name}', expected a name that ends in {', '.join(ENDINGS)}")
    columns, rows = store.runs()
    if not rows:
        raise InputError(f"no trials in '{store.path}'; run 'd90 measure' or 'd90 compare' first")
    frame = pandas.DataFrame(rows, columns=columns)
    with store.reading(), replaced(target) as partial:
        _write_table(store, frame, target.suffix, partial)
    return target


def _write_table(store: Store, frame: Any, ending: str, target: Path) -> None:
    if ending == ".csv":
        frame = frame.map(lambda value: spreadsheet_cell(value) if isinstance(value, str) else value)
        # what the column was called before; other formats are read by tools that do not tell it from d
        frame["D"] = frame["weights_moved"]
        frame.columns = [spreadsheet_cell(str(name)) for name in frame.columns]
        frame.to_csv(target, index=False, lineterminator="\n")
    elif ending == ".parquet":
        frame.to_parquet(target, index=False, engine="pyarrow")
    else:
        _spreadsheet(store, frame, target)


def _spreadsheet(store: Store, frame: Any, target: Path) -> None:
    import pandas

    try:
        import openpyxl  # noqa: F401
    except ImportError:
        raise InputError(
            "a spreadsheet needs openpyxl, which is not installed: pip install 'd90[export]', or export to .csv or .parquet"
        ) from None
    studies = store.all_studies()
    names = _sheets([(kind, body) for _, kind, body in studies])
    overview = [
        {"sheet": name, **{key: _cell({"kind": kind, **body}.get(key)) for key in SHOWN}}
        for name, (_, kind, body) in zip(names, studies, strict=True)
    ]
    with target.open("wb") as file, pandas.ExcelWriter(file, engine="openpyxl") as book:
        _write(book, "studies", pandas.DataFrame(overview, columns=["sheet", *SHOWN]))
        _write(book, "trials", frame)
        for name, (key, _, body) in zip(names, studies, strict=True):
            _write(book, name, _of_study(store, frame, key, body))


def _of_study(store: Store, frame: Any, key: str, body: Json) -> Any:
    """A study's trials; of one that notes none (an earlier version's, or a study of studies), the rows of its result."""
    import pandas

    used = store.used(key)
    chosen = frame[frame["key"].isin(list(used))]
    if len(chosen):
        return chosen.assign(made_for_it=[used[trial] for trial in chosen["key"]])
    rows: list[Json] = next((body[name] for name in ("curve", "entries", "cells") if body.get(name)), [])
    return pandas.DataFrame([{name: _cell(value) for name, value in row.items()} for row in rows])


def _write(book: Any, name: str, frame: Any) -> None:
    # a sheet refuses control characters, and takes a text that begins with '=' for a formula
    frame = frame.map(lambda value: _safe(value) if isinstance(value, str) else value)
    frame.to_excel(book, sheet_name=name, index=False)
    book.sheets[name].freeze_panes = "A2"


def _safe(text: str) -> str:
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", "?", text)
    return spreadsheet_cell(text)


def spreadsheet_cell(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula: one that could begin a formula gets a ' in front.

    Spreadsheets look past leading spaces, and tabs and carriage returns begin a formula as well; a number stays a number.
    """
    first = text.lstrip(" \n\u00a0\ufeff")[:1]
    if first not in ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20") or not first:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _cell(value: Any) -> Any:
    """Lists and dictionaries as text: a cell holds one value."""
    return str(value) if isinstance(value, list | dict | tuple) else value


def _sheets(studies: Iterable[tuple[str, Json]]) -> list[str]:
    """Names of sheets: short, different, without the letters that are not allowed in one."""
    names: list[str] = []
    for number, (kind, body) in enumerate(studies, 1):
        shown = (
            f"{number} {kind} {Path(str(body.get('task', ''))).stem} {str(body.get('method', '')).partition('@')[0]}"
        )
        names.append(re.sub(r"[\[\]:*?/\\'\x00-\x1f\ud800-\udfff]", " ", shown)[:LONGEST].strip())
    return names
