"""Predictions as lines, JSONL or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d90.errors import InputError, unknown_name

if TYPE_CHECKING:
    from d90.tasks.kinds.base import Prediction

__all__ = ["FORMATS", "format_of", "lines_of"]

FORMATS = ("lines", "jsonl", "csv")


def format_of(given: str | None, out: Path | None) -> str:
    """The format asked for, or that of the output's ending; lines by default.

    Raises:
        InputError: an unknown format, or an ending that names none.
    """
    if given is not None:
        if given not in FORMATS:
            raise unknown_name("format", given, FORMATS)
        return given
    if out is None:
        return "lines"
    ending = out.suffix.lower().lstrip(".")
    if ending not in (*FORMATS, "txt"):
        raise InputError(f"got --out {out}, expected a name that ends in .jsonl, .csv or .txt, or --format")
    return "lines" if ending == "txt" else ending


def lines_of(
    form: str,
    texts: Sequence[tuple[str, ...]],
    places: Sequence[str],
    described: Iterable[Prediction],
    called: str = "text",
) -> Iterator[str]:
    """One line for each example, a header first for CSV, without line ends.

    Args:
        form: "lines", "jsonl" or "csv".
        called: what a single text is called (`TaskKind.shown`).
        described: what `TaskKind.describe` gives, in the order of the texts.
    """
    for i, (example, place, answer) in enumerate(zip(texts, places, described, strict=True)):
        if form == "lines":
            first, *rest = answer.values()
            shown = [f"{first:.4f}" if isinstance(first, float) else str(_cell(first))]
            shown += [f"{value:.4f}" for value in rest if isinstance(value, float)]
            yield "\t".join([*shown, *(text.replace("\n", "\\n").replace("\r", "\\r") for text in example)])
            continue
        names = _names(called, len(example))
        row = {**_place(place), **dict(zip(names, example, strict=True)), **answer}
        if form == "jsonl":
            yield json.dumps(row)
        else:
            flat = _flat(row)
            if i == 0:
                yield _csv(flat)
            yield _csv(flat.values())


def _names(called: str, count: int) -> tuple[str, ...]:
    """What the texts of an example are called."""
    if count < 3:
        return (called,) if count == 1 else ("text_a", "text_b")
    return (called, *(f"choice_{i}" for i in range(1, count)))


def _place(place: str) -> dict[str, int]:
    """{"line": 3} of "line 3"; nothing for texts that were given on the command line."""
    name, _, number = place.partition(" ")
    return {name: int(number)} if number.isdecimal() else {}


def _flat(row: Prediction) -> dict[str, str | int | float | None]:
    """Probabilities as a column each, lists as JSON."""
    flat: dict[str, str | int | float | None] = {}
    for key, value in row.items():
        flat |= (
            {f"p({name})": share for name, share in value.items()} if isinstance(value, dict) else {key: _cell(value)}
        )
    return flat


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _csv(cells: Iterable[Any]) -> str:
    from d90.trials.export import spreadsheet_cell

    held = io.StringIO()
    csv.writer(held, lineterminator="\r\n").writerow(  # so that both are quoted inside a field
        [spreadsheet_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    )
    return held.getvalue()[:-2]
