"""Tasks from files: .jsonl, .jsonl.gz, .csv, .tsv, .parquet, one file or a folder of train, validation and test.

Every error names the file, and the line where there is one.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.errors import InputError
from d90.tasks.base import Split, Task

__all__ = ["ENDINGS", "PARTS", "Columns", "Row", "find_split", "from_rows", "load_files", "numbered_lines"]

ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
TEXTS = (
    ("text",),
    ("text_a", "text_b"),
    ("sentence",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)

Row = dict[str, Any]


class Columns:
    """Which columns hold the texts and the label; None: found by their usual names."""

    def __init__(self, text: str | None = None, label: str | None = None) -> None:
        self.text = tuple(part.strip() for part in text.split(",")) if text else None
        self.given_label = label
        self.label = label or "label"
        if self.text and len(self.text) > 2:
            raise InputError(f"got {len(self.text)} text columns ('{text}'), expected one, or two joined by a comma")

    def texts(self, row: Row, where: str) -> tuple[str, ...]:
        """The names of the text columns of a file whose first row is `row`."""
        wanted = [self.text] if self.text else sorted(TEXTS, key=len, reverse=True)
        for names in wanted:
            if all(name in row for name in names):
                return names
        looked = ",".join(self.text) if self.text else "text or text_a,text_b"
        raise InputError(
            f"{where}: no column '{looked}'; it has {', '.join(map(str, row))}. Name one or two with --text a[,b]"
        )

    def check_label(self, row: Row, where: str) -> None:
        """Refuse a file without the label column."""
        if self.label not in row:
            raise InputError(
                f"{where}: no label column '{self.label}'; it has {', '.join(map(str, row))}. Name it with --label"
            )


def load_files(name: str, columns: Columns, metric: str | None, kind: str | None) -> Task:
    """A task from a file, or from a folder that holds train and, where it has them, validation and test.

    Raises:
        InputError: what is wrong in which file and line.
    """
    path = Path(name)
    if path.is_dir():
        found = {part: find_split(path, names) for part, names in PARTS.items()}
        if found["train"] is None:
            endings = ", ".join(ENDINGS)
            raise InputError(
                f"the folder '{name}' has no training file; expected train with one of {endings}. For images write "
                f"idx:{name}, for a folder that the datasets library reads hub:{name}"
            )
        files = {part: file for part, file in found.items() if file is not None}
    else:
        files = {"train": path}
    parts, lines = {}, {}
    for part, file in files.items():
        rows = list(_rows(file))
        parts[part] = ([row for _, row in rows], f"'{file}'")
        lines[part] = [place for place, _ in rows]
    return from_rows(name, parts, columns, metric, kind, lines)


def from_rows(
    name: str,
    parts: Mapping[str, tuple[Sequence[Row], str]],
    columns: Columns,
    metric: str | None,
    kind: str | None,
    lines: dict[str, list[str]] | None = None,
    notes: tuple[str, ...] = (),
) -> Task:
    """A task from rows (and where they come from) for train and, if there, validation and test.

    `lines` says where each row stands ("line 3"), for errors. A missing validation split is made from a tenth of the
    training rows by our own bits, and noted.
    """
    texts: dict[str, list[tuple[str, ...]]] = {}
    raw: dict[str, list[Any]] = {}
    at: dict[str, list[str]] = {}
    for part, (rows, where) in parts.items():
        if not rows:
            raise InputError(f"{where}: empty, expected at least one example")
        names = columns.texts(rows[0], where)
        columns.check_label(rows[0], where)
        places = lines[part] if lines else [f"row {i}" for i in range(1, len(rows) + 1)]
        at[part] = [f"{where}, {place}" for place in places]
        texts[part] = [tuple(_text(row, key, spot) for key in names) for row, spot in zip(rows, at[part], strict=True)]
        raw[part] = [_label(row, columns.label, spot) for row, spot in zip(rows, at[part], strict=True)]
    kind = kind or ("regression" if _fractions(raw["train"], at["train"]) else "classification")
    if kind not in ("classification", "regression"):
        raise InputError(f"got kind='{kind}', expected classification or regression")
    classes: tuple[str, ...] = ()
    if kind == "classification":
        classes = tuple(sorted({str(v) for v in raw["train"]}, key=_class_order))
    splits = {part: Split(texts[part], _numbers(raw[part], classes, kind, at[part])) for part in texts}
    if "validation" not in splits:
        splits["train"], splits["validation"] = _divide(splits["train"])
        made = f"validation: {len(splits['validation'])} of the training examples, drawn with the stream 'split'"
        notes = (*notes, made)
    metric = metric or ("pearson" if kind == "regression" else "accuracy")
    return Task(name, kind, classes, metric, splits["train"], splits["validation"], splits.get("test"), notes)


# --- values ----------------------------------------------------------------------------------------------------


def _text(row: Row, key: str, spot: str) -> str:
    value = row.get(key)
    if value is None:
        raise InputError(f"{spot}: no text in column '{key}'; every example needs one")
    if not isinstance(value, str):
        if isinstance(value, list | dict | bytes):
            got = type(value).__name__
            raise InputError(f"{spot}: column '{key}' holds a {got}, expected a text; name another with --text")
        return str(value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{spot}: half a surrogate pair at character {error.start} of column '{key}', expected whole "
                "characters. Likely cause: a text cut inside an escape such as \\ud83d\\ude00; cut it elsewhere"
            ) from None
    return value


def _label(row: Row, key: str, spot: str) -> Any:
    value = row.get(key)
    if value is None or value == "" or (isinstance(value, float) and value != value):
        raise InputError(f"{spot}: no label in column '{key}'; every example needs one")
    if isinstance(value, list | dict | bytes):
        got = type(value).__name__
        raise InputError(f"{spot}: column '{key}' holds a {got}, expected a number or a name; choose with --label")
    # 1.0 and 1 are one class, and so are the same column read from two kinds of file
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _fractions(values: Sequence[Any], spots: Sequence[str]) -> bool:
    """Whether labels are numbers and not all of them whole; refuses one that is not finite among numbers."""
    numbers = [_number(value) for value in values]
    if any(number is None for number in numbers):
        return False
    _check_finite(numbers, spots)
    return any(number != int(number) for number in numbers if number is not None)


def _check_finite(numbers: Sequence[float | None], spots: Sequence[str]) -> None:
    for number, spot in zip(numbers, spots, strict=True):
        if number is not None and not math.isfinite(number):
            raise InputError(f"{spot}: label '{number}' among numbers, expected a finite one; drop or mend the row")


def _class_order(label: str) -> tuple[float, str]:
    number = _number(label)
    return (float("inf") if number is None else number, label)


def _numbers(values: Sequence[Any], classes: tuple[str, ...], kind: str, spots: Sequence[str]) -> Tensor:
    if kind == "regression":
        numbers = [_number(value) for value in values]
        for number, value, spot in zip(numbers, values, spots, strict=True):
            if number is None:
                raise InputError(f"{spot}: label '{value}' is no number, and the task is a regression")
        _check_finite(numbers, spots)
        return torch.tensor(numbers, dtype=torch.float32)
    place = {label: i for i, label in enumerate(classes)}
    for value, spot in zip(values, spots, strict=True):
        if str(value) not in place:
            known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            raise InputError(f"{spot}: label '{value}' is not among the {len(classes)} training labels {known}")
    return torch.tensor([place[str(value)] for value in values], dtype=torch.int64)


def _divide(split: Split) -> tuple[Split, Split]:
    """A tenth of a split, at most `MOST_HELD` examples, as validation; the order of both is kept."""
    if len(split) < 2:
        raise InputError("the training file has one example, expected at least two so that one can be held out")
    return split.hold_out(0)


# --- files -----------------------------------------------------------------------------------------------------


def find_split(folder: Path, names: Sequence[str], endings: Sequence[str] = ENDINGS) -> Path | None:
    """The one file of a split in a folder, by any of its names and endings; None where there is none.

    Raises:
        InputError: there are two.
    """
    found = [file for name in names for end in endings if (file := folder / f"{name}{end}").is_file()]
    if len(found) > 1:
        both = f"{found[0].name} and {found[1].name}"
        raise InputError(f"'{folder}' has {both}, expected one file for a split; remove one")
    return found[0] if found else None


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Where each row stands, and the row."""
    ending = next((end for end in ENDINGS if path.name.endswith(end)), None)
    if ending is None:
        raise InputError(f"'{path}': expected a file ending in {', '.join(ENDINGS)}")
    if path.stat().st_size == 0:
        raise InputError(f"'{path}': empty file, expected at least one example")
    if ending == ".parquet":
        yield from _parquet(path)
    elif ending.startswith(".jsonl"):
        yield from _jsonl(path)
    else:
        yield from _csv(path, "\t" if ending == ".tsv" else ",")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; broken UTF-8 and truncated gzip are told with their line."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{path}', line {number}: broken UTF-8 at byte {error.start} of the line; save the file as UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{path}', after line {number}: damaged gzip file ({error}); copy it again") from None


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"'{path}', line {number}: malformed JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"'{path}', line {number}: got a {type(row).__name__}, expected one JSON object a line")
        yield f"line {number}", row


def _csv(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    reader = csv.reader((line for _, line in numbered_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if header is None:
                header = [name.strip() for name in row]
                twice = next((name for name in header if header.count(name) > 1), None)
                if twice is not None:
                    raise InputError(f"'{path}': two columns are called '{twice}', expected different ones; rename one")
            elif row and len(row) != len(header):
                raise InputError(
                    f"'{path}', line {reader.line_num}: {len(row)} fields, expected {len(header)} as in its header; "
                    f"quote texts that hold a {'tab' if delimiter != ',' else 'comma'}"
                )
            elif row:
                yield f"line {reader.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"'{path}', line {reader.line_num}: malformed ({error}); check the quotes") from None


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"'{path}' is no sound parquet file: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", row
