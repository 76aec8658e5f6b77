"""Tasks from files: one file, or a folder of train, validation and test.

Every error names the file, and the line where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from d90.errors import InputError
from d90.tasks.base import Task
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds import choose_kind, find_kind
from d90.tasks.pictures import class_folders, folder_table
from d90.tasks.readers import ENDINGS, find_split, read_rows

__all__ = ["PARTS", "from_tables", "load_files", "split_files"]

PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def split_files(name: str, endings: tuple[str, ...] = ENDINGS) -> dict[str, Path]:
    """{split: its file} of a file or a folder.

    Raises:
        InputError: a folder without train, or with two files for a split.
    """
    path = Path(name)
    if not path.is_dir():
        return {"train": path}
    found = {part: find_split(path, names, endings) for part, names in PARTS.items()}
    if found["train"] is None:
        raise InputError(
            f"the folder '{name}' has no training file; expected train with one of {', '.join(endings)}. For images write "
            f"idx:{name}, for a folder that the datasets library reads hub:{name}"
        )
    return {part: file for part, file in found.items() if file is not None}


def load_files(name: str, columns: Columns, metric: str | None, kind: str | None) -> Task:
    """A task from a file, or from a folder that holds train and, where it has them, validation and test.

    Raises:
        InputError: what is wrong in which file and line.
    """
    pictured = _picture_folders(Path(name))
    if pictured:
        read = {part: folder_table(folder) for part, folder in pictured.items()}
        shown = tuple(note for _, some in read.values() for note in some)
        return from_tables(name, {part: table for part, (table, _) in read.items()}, columns, metric, kind, shown)
    tables, notes = {}, []
    for part, file in split_files(name).items():
        found = read_rows(file)
        tables[part] = Table(found.rows, f"'{file}'", found.places, found.typed, file.parent)
        notes += found.notes
    return from_tables(name, tables, columns, metric, kind, tuple(notes))


def _picture_folders(path: Path) -> dict[str, Path]:
    """{split: its folder of class folders}: of a folder with train and the others, or of one with the classes themselves; empty where
    there are no pictures in such folders.
    """
    if not path.is_dir():
        return {}
    inside = {folder.name.lower(): folder for folder in path.iterdir() if folder.is_dir()}
    found = {part: next((inside[name] for name in names if name in inside), None) for part, names in PARTS.items()}
    parts = {part: folder for part, folder in found.items() if folder is not None and class_folders(folder)}
    if "train" in parts:
        return parts
    return {"train": path} if class_folders(path) else {}


def from_tables(
    name: str,
    tables: Mapping[str, Table],
    columns: Columns,
    metric: str | None,
    kind: str | None,
    notes: tuple[str, ...] = (),
) -> Task:
    """A task from tables for train and, if there, validation and test.

    A missing validation split is made from a tenth of the training rows by our own bits, and noted.

    Args:
        kind: the name of a kind; the one that the training table looks like by default.
    """
    for table in tables.values():
        if not table.rows:
            raise InputError(f"{table.where}: empty, expected at least one example")
    chosen = find_kind(kind) if kind else choose_kind(tables["train"], columns)
    reading = chosen.read(tables, columns, given=kind is not None)
    splits = {
        part: replace(split, sources=columns.sources(tables[part], len(split)) or split.sources)
        for part, split in reading.splits.items()
    }
    notes = shown = (*notes, *reading.notes)
    if "validation" not in splits:
        if len(splits["train"]) < 2:
            raise InputError(
                f"{tables['train'].where}: the training file has one example, expected at least two so that one can be held out"
            )
        splits["train"], splits["validation"] = splits["train"].hold_out(0, reading.kind.groups(*splits.values())[0])
        made = f"validation: {len(splits['validation'])} of the training examples, drawn with the stream 'split'"
        notes = (*notes, made)
    fitted = reading.kind.fitted(splits["train"])
    groups = fitted.groups(*splits.values())[0]
    if groups is not None:
        line = f"{len(groups):,} training examples share {fitted.shared(splits['train'])}, each one independent example"
        notes, shown = (*notes, line), (*shown, line)
    return Task(
        name,
        fitted,
        fitted.labels,
        metric or fitted.own_metric,
        splits["train"],
        splits["validation"],
        splits.get("test"),
        notes,
        shown,
    )
