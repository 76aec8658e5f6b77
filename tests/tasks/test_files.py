"""Tasks from files: what is read, and one line for each thing that can be wrong with a file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from d90 import tasks
from d90.errors import InputError

ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(20)]


def _jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a file of the kind its name says."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        between = "," if path.suffix == ".csv" else "\t"
        lines = [between.join(rows[0]), *(between.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        raw = _jsonl(rows).encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.csv", "d.tsv", "d.parquet"])
def test_every_kind_of_file_is_the_same_task(name: str, tmp_path: Path) -> None:
    task = tasks.load(str(_write(tmp_path / name, ROWS)))
    twin = tasks.load(str(_write(tmp_path / "twin.jsonl", ROWS)))
    assert task.fingerprint == twin.fingerprint
    assert (task.kind.name, task.metric, task.labels) == ("classification", "accuracy", ("0", "1"))
    assert (len(task.train), len(task.validation), task.test) == (18, 2, None)
    assert task.notes == (
        "kind: classification into 2 classes, guessed; --kind names another",
        "validation: 2 of the training examples, drawn with the stream 'split'",
    )
    both = sorted([*task.train.inputs, *task.validation.inputs])
    assert both == sorted((row["text"],) for row in ROWS)


def test_the_split_of_a_file_is_at_most_2000_and_at_least_one(tmp_path: Path) -> None:
    rows = [{"text": str(i), "label": i % 2} for i in range(20_100)]
    assert len(tasks.load(str(_write(tmp_path / "a.jsonl", rows))).validation) == 2000
    assert len(tasks.load(str(_write(tmp_path / "b.jsonl", rows[:4]))).validation) == 1


def test_a_folder_with_its_own_splits(tmp_path: Path) -> None:
    _write(tmp_path / "train.csv", ROWS)
    _write(tmp_path / "dev.jsonl.gz", ROWS[:6])
    _write(tmp_path / "test.tsv", ROWS[:4])
    task = tasks.load(str(tmp_path), limit=10, validation_limit=5)
    assert {part: len(split) for part, split in task.splits.items()} == {"train": 10, "validation": 5, "test": 4}
    assert task.notes == ("kind: classification into 2 classes, guessed; --kind names another",)
    _write(tmp_path / "valid.csv", ROWS)
    with pytest.raises(InputError, match=r"has valid.csv and dev.jsonl.gz, expected one file for a split; remove one"):
        tasks.load(str(tmp_path))


@pytest.mark.parametrize(
    "names",
    [
        ("text",),
        ("text_a", "text_b"),
        ("sentence",),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
    ],
)
def test_usual_columns(names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"id": i} | {name: f"{name} {i}" for name in names} | {"label": i % 2} for i in range(4)]
    task = tasks.load(str(_write(tmp_path / "d.jsonl", rows)))
    assert {len(texts) for texts in task.train.inputs} == {len(names)}


def test_named_columns(tmp_path: Path) -> None:
    rows = [{"a": i, "b": "é", "y": "yes" if i % 2 else "no"} for i in range(4)]
    task = tasks.load(str(_write(tmp_path / "d.jsonl", rows)), text="a, b", label="y")
    assert task.labels == ("no", "yes")
    assert all(texts[1] == "é" for texts in task.train.inputs)
    with pytest.raises(InputError, match="got 3 text columns"):
        tasks.load(str(tmp_path / "d.jsonl"), text="a,b,c")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 2], ("2", "9", "10")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["b", "a", "c"], ("a", "b", "c")),
        ([True, False, True], ("False", "True")),
        ([1.0, 0, 2.0], ("0", "1", "2")),
    ],
)
def test_labels_and_their_order(labels: list[Any], classes: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"text": "t", "label": label} for label in labels * 5]
    task = tasks.load(str(_write(tmp_path / "d.jsonl", rows)))
    assert (task.kind.name, task.labels) == ("classification", classes)
    assert task.train.labels.dtype == torch.int64


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
def test_fractions_are_a_regression(name: str, tmp_path: Path) -> None:
    rows = [{"text": "t", "label": i / 2} for i in range(8)]
    task = tasks.load(str(_write(tmp_path / name, rows)))
    assert (task.kind.name, task.metric, task.labels, task.outputs) == ("regression", "pearson", (), 1)
    assert task.train.labels.dtype == torch.float32
    chosen = tasks.load(str(tmp_path / name), kind="classification")
    assert chosen.outputs >= 7
    whole = tasks.load(str(_write(tmp_path / name, ROWS)), kind="regression", metric="spearman")
    assert (whole.kind.name, whole.metric) == ("regression", "spearman")


def test_quoted_csv_with_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes('\ufefftext,label\r\n"a, ""b""\r\nc",1\r\n\r\nd,0\r\ne,1\r\nf,0\r\n'.encode())
    task = tasks.load(str(path))
    found = sorted([*task.train.inputs, *task.validation.inputs])
    assert found == [('a, "b"\r\nc',), ("d",), ("e",), ("f",)]


# --- what can be wrong ---------------------------------------------------------------------------------------------------

GOOD = _jsonl(ROWS)
NULL = [*ROWS[:2], {"text": "x", "label": None}, *ROWS[2:]]

WRONG: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("d.jsonl", "", "empty file"),
    "blank": ("d.jsonl", "\n\n", "empty, expected at least one example"),
    "header only": ("d.csv", "text,label\n", "empty, expected at least one example"),
    "ending": ("d.txt", "x", "expected a file ending in .jsonl"),
    "columns": (
        "d.jsonl",
        _jsonl([{"body": "x", "label": 1}]),
        "no column 'text or text_a,text_b'; it has body, label",
    ),
    "label": (
        "d.jsonl",
        _jsonl([{"text": "x", "y": 1}]),
        "no label column 'label'; it has text, y. Name it with --label",
    ),
    "null": ("d.jsonl", "\n" + _jsonl(NULL), "line 4: no label in column 'label'"),
    "empty label": ("d.csv", "text,label\na,1\nb,\n", "line 3: no label"),
    "NaN": ("d.jsonl", _jsonl([*ROWS, {"text": "x", "label": float("nan")}]), "line 21: no label"),
    "nan among numbers": ("d.csv", "text,label\na,1\nb,0\nc,nan\n", "line 4: label 'nan' among numbers"),
    "list label": ("d.jsonl", _jsonl([*ROWS, {"text": "x", "label": [1]}]), "line 21: column 'label' holds a list"),
    "no text": ("d.jsonl", _jsonl([*ROWS, {"label": 1}]), "line 21: no text in column 'text'"),
    "list text": ("d.jsonl", _jsonl([{"text": ["x"], "label": 1}]), "line 1: column 'text' holds a list"),
    "surrogate": (
        "d.jsonl",
        GOOD + '{"text": "x\\ud83d", "label": 1}\n',
        "line 21: half a surrogate pair at character 1",
    ),
    "one class": ("d.jsonl", _jsonl(ROWS[::2]), "are one class; expected at least two"),
    "one row": ("d.jsonl", _jsonl(ROWS[:1]), "one example, expected at least two"),
    "utf-8": ("d.jsonl", GOOD.encode() + b'{"text": "\xff", "label": 1}\n', "line 21: broken UTF-8 at byte 10"),
    "utf-16": ("d.csv", GOOD.encode("utf-16"), "line 1: broken UTF-8"),
    "json": ("d.jsonl", GOOD + '{"text": \n', "line 21: malformed JSON"),
    "json list": ("d.jsonl", GOOD + "[1]\n", "line 21: got a list, expected one JSON object a line"),
    "csv row": ("d.csv", "text,label\na,1\nb,c,0\n", "line 3: 3 fields, expected 2 as in its header; quote texts"),
    "csv quote": ("d.csv", 'text,label\n"a,1\nb,0\n', "malformed .*check the quotes"),
    "csv twice": ("d.csv", "text,label,text\na,1,b\n", "two columns are called 'text'"),
    "gz cut": ("d.jsonl.gz", gzip.compress(GOOD.encode() * 50)[:-20], "damaged gzip file"),
    "gz not": ("d.jsonl.gz", GOOD, "damaged gzip file"),
    "parquet": ("d.parquet", "PAR1 no", "is no sound parquet file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_that_names_it(case: str, tmp_path: Path) -> None:
    name, content, words = WRONG[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words) as caught:
        tasks.load(str(path))
    assert "\n" not in str(caught.value)
    if case != "one row":
        assert name in str(caught.value)


def _unknown_label(folder: Path) -> None:
    _write(folder / "train.jsonl", ROWS)
    _write(folder / "validation.jsonl", [*ROWS[:2], {"text": "x", "label": 7}])


def _word_in_a_regression(folder: Path) -> None:
    _write(folder / "train.jsonl", [{"text": "x", "label": i / 2} for i in range(5)])
    _write(folder / "validation.jsonl", [{"text": "x", "label": "good"}])


def _no_train(folder: Path) -> None:
    _write(folder / "test.jsonl", ROWS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_unknown_label, r"validation.jsonl', line 3: label '7' is not among the 2 training labels 0, 1"),
        (_word_in_a_regression, "validation.jsonl', line 1: label 'good' is no number"),
        (_no_train, "has no training file; expected train with one of"),
    ],
)
def test_a_wrong_folder(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=words):
        tasks.load(str(tmp_path))


def test_wrong_options(tmp_path: Path) -> None:
    path = str(_write(tmp_path / "d.jsonl", ROWS))
    with pytest.raises(InputError, match="no column 'body'; it has text, label"):
        tasks.load(path, text="body")
    with pytest.raises(InputError, match="unknown kind of task 'ranking'"):
        tasks.load(path, kind="ranking")
    with pytest.raises(InputError, match="unknown metric 'acc'"):
        tasks.load(path, metric="acc")
