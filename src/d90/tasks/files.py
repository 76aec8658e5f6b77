"""Tasks from files: .jsonl, .jsonl.gz, .csv, .tsv, .parquet, one file or a folder of train, validation and test.

Every error names the file, and the line where there is one.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.errors import InputError
from d90.projections.philox import words
from d90.tasks.base import Split, Task
from d90.tasks.metrics import METRICS

__all__ = ["ENDINGS", "Columns", "from_rows", "load_files"]

ENDINGS = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
PARTS = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}
TEXTS = (
    ("text",),
    ("text_a", "text_b"),
    ("sentence",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
MOST_VALIDATION = 2000

Row = dict[str, Any]


class Columns:
    """Which columns hold the texts and the label; None: found by their usual names."""

    def __init__(self, text: str | None = None, label: str | None = None) -> None:
        self.text = tuple(part.strip() for part in text.split(",")) if text else None
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
            f"{where}: no column '{looked}'; it has {', '.join(map(str, row))}. Name the columns with --text a[,b]"
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
        found = {part: _find(path, names) for part, names in PARTS.items()}
        if found["train"] is None:
            endings = ", ".join(ENDINGS)
            raise InputError(f"the folder '{name}' has no training file; expected train with one of {endings}")
        files = {part: file for part, file in found.items() if file is not None}
    else:
        files = {"train": path}
    return from_rows(
        name, {part: (list(_rows(file)), str(file)) for part, file in files.items()}, columns, metric, kind
    )


def from_rows(
    name: str, parts: dict[str, tuple[Sequence[Row], str]], columns: Columns, metric: str | None, kind: str | None
) -> Task:
    """A task from rows (and where they come from) for train and, if there, validation and test.

    A missing validation split is made from a tenth of the training rows by our own bits, and noted.
    """
    texts: dict[str, list[tuple[str, ...]]] = {}
    raw: dict[str, list[Any]] = {}
    for part, (rows, where) in parts.items():
        if not rows:
            raise InputError(f"{where}: empty, expected at least one example")
        names = columns.texts(rows[0], where)
        columns.check_label(rows[0], where)
        texts[part] = [tuple(_text(row, key, where, i) for key in names) for i, row in enumerate(rows, start=1)]
        raw[part] = [_label(row, columns.label, where, i) for i, row in enumerate(rows, start=1)]
    kind = kind or (
        "regression" if all(_fraction(v) for v in raw["train"]) and _any_fraction(raw["train"]) else "classification"
    )
    if kind not in ("classification", "regression"):
        raise InputError(f"got kind='{kind}', expected classification or regression")
    metric = metric or ("pearson" if kind == "regression" else "accuracy")
    if metric not in METRICS:
        raise InputError(f"unknown metric '{metric}', expected one of {', '.join(METRICS)}")
    classes: tuple[str, ...] = ()
    if kind == "classification":
        classes = tuple(sorted({str(v) for v in raw["train"]}, key=_class_order))
    labels = {part: _numbers(raw[part], classes, kind, parts[part][1]) for part in raw}
    splits = {part: Split(texts[part], labels[part]) for part in texts}
    notes: tuple[str, ...] = ()
    if "validation" not in splits:
        splits["train"], splits["validation"] = _divide(splits["train"])
        notes = (f"validation: {len(splits['validation'])} of the training examples, drawn with the stream 'split'",)
    return Task(name, kind, classes, metric, splits["train"], splits["validation"], splits.get("test"), notes)


# --- values ------------------------------------------------------------------------------------------------------------


def _text(row: Row, key: str, where: str, number: int) -> str:
    value = row.get(key)
    if value is None:
        raise InputError(f"{where}, row {number}: no text in column '{key}'; every example needs one")
    return value if isinstance(value, str) else str(value)


def _label(row: Row, key: str, where: str, number: int) -> Any:
    value = row.get(key)
    if value is None or value == "" or (isinstance(value, float) and value != value):
        raise InputError(f"{where}, row {number}: no label in column '{key}'; every example needs one")
    return value


def _fraction(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _any_fraction(values: Sequence[Any]) -> bool:
    return any(not float(v).is_integer() for v in values)


def _class_order(label: str) -> tuple[float, str]:
    return (float(label), label) if _fraction(label) else (float("inf"), label)


def _numbers(values: Sequence[Any], classes: tuple[str, ...], kind: str, where: str) -> Tensor:
    if kind == "regression":
        for i, value in enumerate(values, start=1):
            if not _fraction(value):
                raise InputError(f"{where}, row {i}: label '{value}' is no number, and the task is a regression")
        return torch.tensor([float(v) for v in values], dtype=torch.float32)
    number = {label: i for i, label in enumerate(classes)}
    unknown = next((i for i, v in enumerate(values, start=1) if str(v) not in number), None)
    if unknown is not None:
        raise InputError(
            f"{where}, row {unknown}: label '{values[unknown - 1]}' is not among the training labels {', '.join(classes)}"
        )
    return torch.tensor([number[str(v)] for v in values], dtype=torch.int64)


def _divide(split: Split) -> tuple[Split, Split]:
    """A tenth of a split, at most 2000 examples, as validation; the order of both is kept."""
    if len(split) < 2:
        raise InputError("the training file has one example, expected at least two so that one can be held out")
    count = min(MOST_VALIDATION, max(1, len(split) // 10))
    keys = words(0, "split", torch.zeros(1, dtype=torch.int64), -(-len(split) // 4))[0, : len(split)]
    held = torch.zeros(len(split), dtype=torch.bool)
    held[torch.argsort(keys, stable=True)[:count]] = True

    def part(mask: Tensor) -> Split:
        return Split(
            [texts for texts, kept in zip(split.inputs, mask.tolist(), strict=True) if kept], split.labels[mask]
        )

    return part(~held), part(held)


# --- files ---------------------------------------------------------------------------------------------------------------


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((f for name in names for end in ENDINGS if (f := folder / f"{name}{end}").is_file()), None)


def _rows(path: Path) -> Iterator[Row]:
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; broken UTF-8 and truncated gzip are told with their line."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{path}', line {number}: broken UTF-8 at byte {error.start} of the line; save the file as UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{path}', after line {number}: damaged gzip file ({error}); copy it again") from None


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"'{path}', line {number}: malformed JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"'{path}', line {number}: got a {type(row).__name__}, expected one JSON object a line")
        yield row


def _csv(path: Path, delimiter: str) -> Iterator[Row]:
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if header is None:
                header = [name.strip() for name in row]
            elif row and len(row) != len(header):
                raise InputError(
                    f"'{path}', line {reader.line_num}: {len(row)} fields, expected {len(header)}; quote texts with '{delimiter}'"
                )
            elif row:
                yield dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"'{path}', line {reader.line_num}: malformed ({error}); check the quotes") from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"'{path}' is no sound parquet file: {str(error).splitlines()[0]}") from None
    yield from table.to_pylist()
