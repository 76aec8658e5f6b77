"""A store as a table: the view, old stores, and files that other tools read back."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

import d90
from d90.errors import InputError, StoreError
from d90.methods import parse
from d90.training.result import TrialResult
from d90.trials.export import export, spreadsheet_cell
from d90.trials.predictions import pack, unpack
from d90.trials.row import TrialRow
from d90.trials.store import SCHEMA, Store
from tests.reference.blobs import FAST, blobs
from tests.reference.command import run

RESULTS = Path(__file__).parents[2] / "docs" / "results"
DID = "full@d=30,structure=did,projection=fastfood,scale=tensor,layer=block,head=inside"


def first_schema(path: Path) -> None:
    """A store as the first version wrote it, with one trial whose loss was not finite."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(
            "CREATE TABLE trials (id INTEGER PRIMARY KEY, key TEXT NOT NULL, stop_at REAL, ended TEXT NOT NULL, d INTEGER, "
            "seed INTEGER NOT NULL, score REAL NOT NULL, status TEXT NOT NULL, recipe TEXT NOT NULL, outcome TEXT NOT NULL, "
            "context TEXT NOT NULL); CREATE UNIQUE INDEX one_trial ON trials (key, ifnull(stop_at, 'none')); "
            "CREATE TABLE studies (key TEXT PRIMARY KEY, updated TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL); "
            "PRAGMA user_version=1"
        )
        curve = [{"step": 0, "score": 0.5, "loss": float("inf")}, {"step": 5, "score": 0.7, "loss": 1.0}]
        outcome = {
            "score": 0.7,
            "status": "finished",
            "curve": curve,
            "lr": 0.01,
            "train_loss": float("nan"),
            "steps": 5,
        }
        recipe = {"model": "m", "task": "t", "method": f"{DID},seed=4", "seed": 9, "epochs": 3}
        bodies = [json.dumps(part) for part in (recipe, outcome, {"torch": "2", "task": "x"})]
        row = ("k", None, "2026-01-01T00:00:00Z", 30, 9, 0.7, "finished", *bodies)
        db.execute("INSERT INTO trials VALUES (1,?,?,?,?,?,?,?,?,?,?)", row)
    db.close()


def as_rows(store: Store) -> list[dict[str, Any]]:
    columns, rows = store.runs()
    return [dict(zip(columns, row, strict=True)) for row in rows]


def test_a_row_tells_the_trial(tmp_path: Path) -> None:
    first_schema(tmp_path / "old.sqlite")
    (row,) = as_rows(Store(tmp_path / "old.sqlite"))
    expected = {
        "moves": "full", "structure": "did", "projection": "fastfood", "head": "inside", "d": 30, "seed": 9, "p_seed": 4,
        "lr": 0.01, "epochs": 3, "score": 0.7, "bound": "exact", "train_loss": None, "evaluated": 1, "best_step": 5,
        "torch": "2", "task_hash": "x",
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected


def test_an_old_store_is_read_as_it_is_and_upgraded_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    first_schema(path)
    before = path.read_bytes()
    old = Store(path, write=False)
    assert old.trials()[0].score == 0.7
    assert old.find("k", None).result.predictions == b""
    assert old.used("anything") == {}
    rows = as_rows(old)
    old.close()
    assert path.read_bytes() == before, "reading changes nothing"
    new = Store(path)
    assert as_rows(new) == rows
    result = TrialResult(1.0, predictions=pack(numpy.arange(3)))
    new.add(TrialRow("n", {"model": "m", "task": "t", "method": "full"}, result, d=1), "study")
    assert unpack(new.find("n", None).result.predictions).tolist() == [0, 1, 2]
    assert new.used("study") == {"n": True}
    new.close()
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA
        assert db.execute("SELECT p_seed FROM runs WHERE key = 'k'").fetchone()[0] == 4, "any SQLite tool has the view"
    db.close()
    assert Store(path).trials()[0].score == 0.7


def test_no_two_columns_of_the_view_are_one_to_sqlite(tmp_path: Path) -> None:
    """A store of schema 2 had `d` and `D`; opened for writing its view is made again."""
    path = tmp_path / "s.sqlite"
    shutil.copy(RESULTS / "mrpc.sqlite", path)
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 2
        assert "D:1" in [column[0] for column in db.execute("SELECT * FROM runs").description], "what it was before"
        trials = db.execute("SELECT * FROM trials").fetchall()
    db.close()
    read = Store(path, write=False)
    rows = as_rows(read)
    read.close()
    Store(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA == 3
        names = [column[0] for column in db.execute("SELECT * FROM runs").description]
        assert len({name.lower() for name in names}) == len(names)
        moved = db.execute("SELECT weights_moved FROM runs WHERE d > 100").fetchall()
        assert moved == [(22_713_986,)] * len(moved)
        assert moved
        assert db.execute("SELECT * FROM trials").fetchall() == trials, "nothing else has changed"
    db.close()
    upgraded = Store(path)
    assert as_rows(upgraded) == rows
    frame = pandas.read_csv(export(upgraded, tmp_path / "t.csv"))
    assert (frame["D"] == frame["weights_moved"]).all(), "the name of before is kept where it can be"
    assert (frame["d"].dropna() > 0).all()


@pytest.mark.parametrize("name", ["mnist", "sst2_sentences", "mrpc"])
def test_the_stores_of_the_results_are_read(name: str) -> None:
    store = Store(RESULTS / f"{name}.sqlite", write=False)
    rows = as_rows(store)
    assert len(rows) == len(store.trials()) > 10
    for row in rows:
        space = parse(str(row["method"])).space
        # a trial with another seed of training names P's
        own = row["seed"] if space is None or space.seed is None else space.seed
        assert row["p_seed"] == (None if row["d"] is None else own)
    assert {row["bound"] for row in rows} == {"exact", "at least"}


def test_a_pruned_trial_serves_higher_thresholds(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    recipe = {"model": "m", "task": "t", "method": "full"}
    store.add(TrialRow("k", recipe, TrialResult(0.6, "hopeless"), 0.8, 1))
    assert store.find("k", 0.8).status == store.find("k", 0.9).status == "hopeless"
    assert store.find("k", 0.7) is None, "it may have reached that"
    assert store.find("k", 0.6).score == 0.6, "that it did reach"
    assert store.find("k", None) is None
    assert as_rows(store)[0]["bound"] == "below stop_at"


@pytest.mark.parametrize("values", [numpy.array([0, 1, 1, 7]), numpy.array([0, 300]), numpy.array([0.5, -1.25], "f4")])
def test_predictions_are_packed_exactly(values: numpy.ndarray) -> None:
    assert unpack(pack(values)).tolist() == values.tolist()
    assert len(pack(numpy.zeros(2000, numpy.int64))) < 40
    with pytest.raises(StoreError, match="damaged"):
        unpack(b"B" + b"nothing")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "s.sqlite"
    for rule in ("paper", "gain"):
        d90.measure("mlp:16-32-3", blobs(), store=path, rule=rule, budget=5, baseline_lr=0.01, **FAST)
    return path


@pytest.mark.parametrize(("ending", "read"), [("csv", pandas.read_csv), ("parquet", pandas.read_parquet)])
def test_files_hold_every_trial(measured: Path, tmp_path: Path, ending: str, read: Any) -> None:
    store = Store(measured, write=False)
    frame = read(export(store, tmp_path / "deep" / f"x.{ending}"))
    rows = as_rows(store)
    assert list(frame.columns) == [*rows[0], *(["D"] if ending == "csv" else [])]
    assert frame["score"].tolist() == [row["score"] for row in rows]
    assert frame["method"].tolist() == [row["method"] for row in rows]


def test_a_spreadsheet_has_a_sheet_for_each_study(measured: Path, tmp_path: Path) -> None:
    store = Store(measured, write=False)
    book = pandas.read_excel(export(store, tmp_path / "x.xlsx"), sheet_name=None)
    assert list(book)[:2] == ["studies", "trials"]
    assert len(book) == 4
    assert len(book["trials"]) == len(store.trials())
    for (key, _, body), name in zip(store.all_studies(), book["studies"]["sheet"], strict=True):
        sheet = book[name]
        assert set(sheet["key"]) == set(store.used(key))
        assert {d for d in sheet["d"] if d == d} == {point["d"] for point in body["curve"]}
    assert book["studies"]["rule"].tolist() == ["paper", "gain"]


def test_mistakes_are_one_line(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("export", str(measured), "--out", str(tmp_path / "x.csv"))
    assert done.returncode == 0, done.stderr
    assert "trials: " in done.stdout
    wrong = run("export", str(measured), "--out", str(tmp_path / "x.doc"))
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "ends in .csv, .parquet, .xlsx" in wrong.stderr
    assert "no store at" in run("export", str(tmp_path / "none.sqlite")).stderr
    with pytest.raises(InputError, match="no trials"):
        export(Store(tmp_path / "empty.sqlite"), tmp_path / "x.csv")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"d90\[export\]"):
        export(Store(measured, write=False), tmp_path / "x.xlsx")


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "\n=1"]
)
def test_formulas_are_neutralised(text: str) -> None:
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+3e4", "plain", "", "a=b", " 7"])
def test_numbers_and_plain_texts_stay(text: str) -> None:
    assert spreadsheet_cell(text) == text
