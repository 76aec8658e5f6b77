"""Files as people have them, and files made to do harm: what is read, or the one line that says why not."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

from d90 import tasks
from d90.errors import InputError
from d90.tasks.columns import Columns
from d90.tasks.examples import read_examples
from d90.tasks.readers import lines, read_rows

LABELS = ["pos", "neg"] * 6
TEXTS = [f"text {i}" for i in range(12)]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in zip(TEXTS, LABELS, strict=True))
TSV = CSV.replace(",", "\t")


def _texts(path: Path) -> list[str]:
    return [row["text"] for row in read_rows(path).rows]


# --- formats: each of these is the same twelve rows ----------------------------------------------------------------------

SAME: dict[str, tuple[str, bytes]] = {
    "jsonl": ("d.jsonl", JSONL.encode()),
    "ndjson": ("d.ndjson", JSONL.encode()),
    "ndjson.gz": ("d.ndjson.gz", gzip.compress(JSONL.encode())),
    "upper case": ("D.JSONL", JSONL.encode()),
    "json, an array": ("d.json", json.dumps(ROWS, indent=1).encode()),
    "json, one line": ("d.json", json.dumps(ROWS).encode()),
    "json, an object with one array": ("d.json", json.dumps({"version": 1, "data": ROWS}).encode()),
    "json that holds lines": ("d.json", JSONL.encode()),
    "json.gz": ("d.json.gz", gzip.compress(json.dumps(ROWS).encode())),
    "csv": ("d.csv", CSV.encode()),
    "CSV": ("d.CSV", CSV.encode()),
    "csv.gz": ("d.csv.gz", gzip.compress(CSV.encode())),
    "semicolons": ("d.csv", CSV.replace(",", ";").encode()),
    "tabs in csv": ("d.csv", TSV.encode()),
    "sep line": ("d.csv", ("sep=;\n" + CSV.replace(",", ";")).encode()),
    "carriage returns": ("d.csv", CSV.replace("\n", "\r").encode()),
    "Windows": ("d.csv", CSV.replace("\n", "\r\n").encode()),
    "byte order mark": ("d.csv", b"\xef\xbb\xbf" + CSV.encode()),
    "blank lines": ("d.csv", CSV.replace("\n", "\n\n").encode()),
    "no last line end": ("d.csv", CSV.rstrip().encode()),
    "quoted everywhere": (
        "d.csv",
        "".join('"' + line.replace(",", '","') + '"\n' for line in CSV.splitlines()).encode(),
    ),
    "tsv": ("d.tsv", TSV.encode()),
    "tsv.gz": ("d.tsv.gz", gzip.compress(TSV.encode())),
    "tsv with carriage returns": ("d.tsv", TSV.replace("\n", "\r").encode()),
    "jsonl with carriage returns": ("d.jsonl", JSONL.replace("\n", "\r").encode()),
}


@pytest.mark.parametrize("case", SAME)
def test_a_format_holds_the_same_rows(case: str, tmp_path: Path) -> None:
    name, content = SAME[case]
    path = tmp_path / name
    path.write_bytes(content)
    assert _texts(path) == TEXTS
    task = tasks.load(str(path))
    assert task.labels == ("neg", "pos")
    assert len(task.train) + len(task.validation) == 12


def test_a_folder_is_read_whatever_the_case_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "Train.CSV").write_text(CSV)
    (tmp_path / "dev.tsv.gz").write_bytes(gzip.compress(TSV.encode()))
    task = tasks.load(str(tmp_path))
    assert (len(task.train), len(task.validation)) == (12, 12)


# --- quotes, long fields, odd characters ---------------------------------------------------------------------------------


def test_a_quote_in_tsv_is_a_letter(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text('text\tlabel\n"a\tpos\nb" said\tneg\n"c"\tpos\nd\tneg\n')
    assert _texts(path) == ['"a', 'b" said', '"c"', "d"], "three rows were swallowed before"
    assert "1 rows have a field between quotes" in read_rows(path).notes[0]


@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_fields_of_any_length(size: int, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f"text,label\n{'x' * size},pos\nb,neg\n")
    assert len(_texts(path)[0]) == size


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    text = "a\u2028b\x0cc\x85d\x1ce"
    path = tmp_path / "d.jsonl"
    path.write_text(
        json.dumps({"text": text, "label": 1}, ensure_ascii=False).replace("\\f", "\x0c") + "\n" + JSONL[:0]
    )
    assert read_examples(_plain(tmp_path, f"one\n\n{text}\nlast"), Columns(), 1).places == [
        "line 1",
        "line 3",
        "line 4",
    ]


def _plain(folder: Path, text: str) -> Path:
    path = folder / "texts"
    path.write_text(text)
    return path


def test_a_field_that_swallowed_rows_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('text,label\n"a,pos\nb,neg\nc,pos\nd",neg\n' + CSV.partition("\n")[2])
    assert "line 2: one field holds 3 line ends and rows of its own" in tasks.load(str(path)).notes[0]


# --- labels --------------------------------------------------------------------------------------------------------------


def _labelled(folder: Path, labels: list[Any], name: str = "d.jsonl") -> str:
    path = folder / name
    if name.endswith(".csv"):
        path.write_text("text,label\n" + "".join(f"t{i},{label}\n" for i, label in enumerate(labels)))
    else:
        path.write_text("".join(json.dumps({"text": f"t{i}", "label": label}) + "\n" for i, label in enumerate(labels)))
    return str(path)


@pytest.mark.parametrize(
    ("name", "labels", "kind"),
    [
        ("d.jsonl", ["3.10", "3.9"] * 4, "classification"),
        ("d.jsonl", ["008.45", "9.5"] * 4, "classification"),
        ("d.csv", ["008.45", "009.50"] * 4, "classification"),
        ("d.csv", ["3.10", "12.99"] * 4, "regression"),
        ("d.jsonl", [3.1, 12.99] * 4, "regression"),
        ("d.jsonl", [1, 2, 3, 4] * 2, "classification"),
        ("d.csv", ["1_0", "2.5"] * 4, "classification"),
    ],
)
def test_the_kind_is_guessed_from_how_labels_are_written_and_said(
    name: str, labels: list[Any], kind: str, tmp_path: Path
) -> None:
    task = tasks.load(_labelled(tmp_path, labels, name))
    assert task.kind.name == kind
    assert any(note.startswith(f"kind: {kind}") and "guessed" in note for note in task.shown_notes)
    if kind == "classification":
        assert set(task.labels) == {str(label) for label in labels}, "3.10 stays 3.10"


def test_spaces_around_labels_are_taken_away_and_reported(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(CSV)
    (tmp_path / "validation.csv").write_text("text,label\na,neg \nb, pos\n")
    task = tasks.load(str(tmp_path))
    assert task.labels == ("neg", "pos")
    assert "validation: spaces around 2 labels were left out" in task.shown_notes


@pytest.mark.parametrize(("ours", "theirs"), [("1.0", "1"), ("Pos", "pos"), ("1e0", "1")])
def test_labels_that_differ_in_writing_alone_are_reported(ours: str, theirs: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"text,label\na,{ours}\nb,z\nc,{ours}\nd,z\n")
    (tmp_path / "validation.csv").write_text(f"text,label\na,{theirs}\n")
    with pytest.raises(InputError, match=f"label '{theirs}' is not among .* it differs from '{ours}' in writing alone"):
        tasks.load(str(tmp_path), kind="classification")
    (tmp_path / "validation.csv").unlink()
    (tmp_path / "train.csv").write_text(f"text,label\na,{ours}\nb,z\nc,{theirs}\nd,z\n" * 1)
    told = tasks.load(str(tmp_path / "train.csv"), kind="classification").shown_notes
    assert any("differ in writing alone" in note for note in told)


def test_nearly_unique_labels_are_no_classes_unless_said(tmp_path: Path) -> None:
    numbers = _labelled(tmp_path, list(range(100)))
    with pytest.raises(
        InputError, match=r"100 different labels in 100 examples.*use --kind regression to predict values"
    ):
        tasks.load(numbers)
    assert tasks.load(numbers, kind="regression").kind.name == "regression"
    assert len(tasks.load(_labelled(tmp_path, [*range(50), *range(50)])).labels) == 50
    names = _labelled(tmp_path, [f"name {i}" for i in range(100)])
    with pytest.raises(InputError, match="another column is meant; choose with --label"):
        tasks.load(names)


# --- what is missing -----------------------------------------------------------------------------------------------------


def test_missing_columns_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"body": "x", "stars": 1}\n' * 3)
    words = "no column 'text or text_a,text_b' and no label column 'label'; it has body, stars. Name them with --text"
    with pytest.raises(InputError, match=words):
        tasks.load(str(path))


def test_texts_alone_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(
        "".join(json.dumps({"text": t, "meta": {"source": "web"}, "id": i}) + "\n" for i, t in enumerate(TEXTS))
    )
    task = tasks.load(str(path))
    assert (task.kind.name, task.metric, len(task.train) + len(task.validation)) == ("language", "loss", 12)
    assert "kind: language, guessed as there is no label column; --label names one" in task.shown_notes
    path.write_text("".join(json.dumps({"text": t, "stars": 1}) + "\n" for t in TEXTS))
    with pytest.raises(InputError, match=r"no label column 'label'; it has text, stars.*--kind language"):
        tasks.load(str(path))
    assert tasks.load(str(path), kind="language").kind.name == "language"


@pytest.mark.parametrize("unit", ["text:", "lines:"])
@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.CSV.gz", "d.parquet"])
def test_plain_text_is_no_table(unit: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(JSONL)
    with pytest.raises(InputError, match=f"is a table, and {unit} takes plain text"):
        tasks.load(f"{unit}{tmp_path / name}")


# --- what is broken or hostile: one line, soon ---------------------------------------------------------------------------


def _bytes_in(column: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        bad = [b"x\xff", b"b", b"\xfe", b"d"]
        rows = {"text": bad if column == "text" else TEXTS[:4], "label": bad if column == "label" else LABELS[:4]}
        pyarrow.parquet.write_table(pyarrow.table(rows), path)

    return write


def _broken_utf8(path: Path) -> None:
    good = pyarrow.array([b"abc", b"x\xffy", b"d"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 3, good.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": text, "label": [0, 1, 0]}), path)


def _long_line(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text": "')
        for _ in range((lines.MAX_LINE >> 20) + 2):
            file.write(b"x" * (1 << 20))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _write(content: str | bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(content if isinstance(content, bytes) else content.encode()), None)[1]


NUMBERS = JSONL.replace('"pos"', "0.5").replace('"neg"', "2")
CLASSES = "text,label\n" + "".join(f"t,c{i}\n" for i in range(60_000))

HOSTILE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "an unclosed quote": ("d.csv", _write(f'{CSV}"open,pos\n{CSV}'), "line 14: a quote that opens in this row is never closed"),
    "a stray quote": ("d.csv", _write('text,label\na,pos\n"b,neg\nc" d,pos\n'), "line 3: malformed .* at line 4.; check the quotes"),
    "UTF-16": ("d.csv", _write(CSV.encode("utf-16")), "line 1: broken UTF-8 at byte 0 of the line .UTF-16.; save"),
    "Latin-1": ("d.csv", _write("text,label\ncaf\xe9,pos\n".encode("latin-1")), "line 2: broken UTF-8 at byte 3"),
    "gzip without .gz": ("d.jsonl", _write(gzip.compress(JSONL.encode())), "broken UTF-8"),
    "a line without end": ("d.jsonl.gz", _long_line, "line 1: more than 64 MiB without a line end"),
    "a pipe": ("d.jsonl", _fifo, "is a pipe or a device, which may never end"),
    "an endless device": ("d.jsonl", _zero, "is a pipe or a device, which may never end"),
    "deep JSON": ("d.jsonl", _write('{"text": ' + "[" * 200_000 + "]" * 200_000 + "}\n"), "line 1: malformed JSON .nested too deeply"),
    "deep JSON array": ("d.json", _write("[" * 200_000), "malformed JSON .nested too deeply"),
    "10^400": ("d.jsonl", _write(f'{{"text": "a", "label": 1{"0" * 400}}}\n' + NUMBERS), "line 1: label '1000.* among numbers"),
    "10^5000": ("d.jsonl", _write(f'{{"text": "a", "label": 1{"0" * 5000}}}\n'), "line 1: malformed JSON"),
    "1e39": ("d.csv", _write("text,label\na,1e39\nb,0.5\nc,1.5\n"), "line 2: label '1e39' among numbers, expected a finite one"),
    "infinity": ("d.jsonl", _write('{"text": "a", "label": 0.5}\n{"text": "a", "label": Infinity}\n'), "line 2: label 'inf' among numbers"),
    "a million columns": ("d.csv", _write(",".join(map(str, range(1_000_000))) + "\n"), "1,000,000 columns, expected at most 10,000"),
    "60,000 classes": ("d.csv", _write(CLASSES), "60,000 different labels, expected at most 50,000"),
    "bytes as text": ("d.parquet", _bytes_in("text"), "row 1: column 'text' holds bytes that are not UTF-8"),
    "bytes as label": ("d.parquet", _bytes_in("label"), "row 1: column 'label' holds bytes that are not UTF-8"),
    "broken UTF-8 in parquet": ("d.parquet", _broken_utf8, "row 2: broken UTF-8 at byte 1 of column 'text'"),
    "a list in JSON": ("d.json", _write("[1, 2]"), "item 1: got a int, expected an object"),
    "an object": ("d.json", _write('{"a": 1}'), "no column"),
    "an escape sequence as a column": ("d.csv", _write("\x1b]0;x\x07,label\na,b\n"), r"it has \\x1b\]0;x\\x07, label"),
    "an escape sequence as a label": ("d.csv", _write("text,label\na,\x1b[2Jpos\n" * 1), r"all 1 training|one example"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_broken_or_hostile_is_one_line(case: str, tmp_path: Path) -> None:
    name, make, words = HOSTILE[case]
    make(tmp_path / name)
    with pytest.raises(InputError, match=words) as caught:
        tasks.load(str(tmp_path / name))
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 1000


def test_a_gzip_file_does_not_grow_without_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FREE_BYTES", 1 << 22)
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a", "label": 1}\n' * 400_000))
    with pytest.raises(InputError, match=r"more than \d+ MiB .from .* compressed., expected less"):
        tasks.load(str(path))


def test_parquet_with_sound_bytes_is_text(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [t.encode() for t in TEXTS], "label": [s.encode() for s in LABELS]}), path
    )
    assert tasks.load(str(path)).labels == ("neg", "pos")


# --- texts to predict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SAME)
def test_texts_to_predict_are_read_as_training_data_is(case: str, tmp_path: Path) -> None:
    name, content = SAME[case]
    (tmp_path / name).write_bytes(content)
    found = read_examples(tmp_path / name, Columns(), 1)
    assert found.texts == [(text,) for text in TEXTS]
    assert len(found.places) == 12


def test_pairs_to_predict(tmp_path: Path) -> None:
    found = read_examples(_plain(tmp_path, "a\tb\n\nc\td\n"), Columns(), 2)
    assert (found.texts, found.places) == ([("a", "b"), ("c", "d")], ["line 1", "line 3"])
    with pytest.raises(InputError, match="line 2: 1 texts, expected 2 with a tab between"):
        read_examples(_plain(tmp_path, "a\tb\nc\n"), Columns(), 2)
    with pytest.raises(InputError, match="empty, expected an example"):
        read_examples(_plain(tmp_path, "\n"), Columns(), 1)


# --- regression in the user's unit, and the class that F1 is of ----------------------------------------------------------


def test_a_regression_tells_the_users_unit(tmp_path: Path) -> None:
    prices = [100_000.5 + 25_000 * (i % 5) for i in range(40)]
    task = tasks.load(_labelled(tmp_path, prices), metric="loss")
    kind, labels = task.kind, task.validation.labels
    assert kind.record["mean"] == pytest.approx(task.train.labels.double().mean().item())
    outputs = ((labels - kind.record["mean"]) / kind.record["deviation"])[:, None]
    assert torch.allclose(task.predictions(outputs), labels)
    off = outputs + 0.5
    assert task.loss(off, labels).item() == pytest.approx((0.5 * kind.record["deviation"]) ** 2, rel=1e-4)
    assert kind.training_loss(off, labels).item() == pytest.approx(0.25, rel=1e-4)
    assert task.score(torch.zeros(len(labels), 1)) == pytest.approx(task.chance())


def test_f1_is_of_the_rarer_class_or_the_one_named(tmp_path: Path) -> None:
    name = _labelled(tmp_path, (["ham"] * 2 + ["spam"] * 8) * 3)
    rare = tasks.load(name, metric="f1")
    assert rare.metric_name == "f1 of 'ham'"
    assert any(note.startswith("metric: f1 of 'ham'") for note in rare.shown_notes)
    other = tasks.load(name, metric="f1", positive="spam")
    assert other.metric_name == "f1 of 'spam'"
    assert rare.fingerprint != other.fingerprint
    always_ham = torch.tensor([[9.0, 0.0]]).expand(len(rare.validation), -1)
    assert rare.score(always_ham) > 0 == other.score(always_ham)
    with pytest.raises(InputError, match="unknown positive class 'eggs'"):
        tasks.load(name, metric="f1", positive="eggs")
    with pytest.raises(InputError, match="expected it with f1"):
        tasks.load(name, positive="spam")
