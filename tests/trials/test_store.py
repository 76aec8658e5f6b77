"""The store: durable rows, honest reuse, and files it must not touch."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from d90.errors import RunFailed, StoreError
from d90.training.recipe import Recipe
from d90.training.result import TrialContext, TrialResult
from d90.trials.row import TrialRow
from d90.trials.store import SCHEMA, Store


def add(
    store: Store, key: str = "k", stop_at: float | None = None, score: float = 0.8, status: str = "finished"
) -> None:
    result = TrialResult(score, status, context=TrialContext(torch="x"))
    store.add(TrialRow(key, {"model": "m", "task": "t", "method": "full", "lr": 1}, result, stop_at, 100))


def test_a_trial_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "s.sqlite")
    add(store, stop_at=0.7, score=0.75, status="passed")
    row = Store(store.path).trials()[0]
    assert (row.key, row.stop_at, row.d, row.seed, row.score, row.status) == ("k", 0.7, 100, 0, 0.75, "passed")
    assert row.stored_recipe == {"model": "m", "task": "t", "method": "full", "lr": 1}
    assert row.recipe == Recipe("m", "t", lr=1)
    assert repr(row.result) == repr(TrialResult(0.75, "passed", context=TrialContext(torch="x"))), (
        "NaN is no NaN's equal"
    )


def test_a_stopped_trial_answers_only_for_thresholds_up_to_its_score(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    add(store, stop_at=0.7, score=0.75, status="passed")
    assert store.find("k", 0.7) is not None
    assert store.find("k", 0.75) is not None
    assert store.find("k", 0.76) is None, "its score is a lower bound: it may or may not reach 0.76"
    assert store.find("k", None) is None, "a full curve needs a finished trial"
    add(store, score=0.9)
    assert store.find("k", 0.76).status == "finished"
    assert store.find("k", 0.99).score == 0.9, "a finished trial answers for every threshold"
    assert store.find("other", None) is None


def test_the_file_is_in_wal_mode_with_full_synchronisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: opened.append(connect(*a, **k)) or opened[-1])
    store = Store(tmp_path / "s.sqlite")
    (connection,) = opened
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    store.close()


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    add(Store(path))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version={SCHEMA + 1}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer d90"):
        Store(path)
    assert path.read_bytes() == before


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to be looked at as one" * 40)
    with pytest.raises(StoreError, match="not an SQLite file"):
        Store(text)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db, db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(StoreError, match="no d90 store"):
        Store(tmp_path / "other.sqlite")


def test_studies_are_replaced_by_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put_study("a", "measure", {"d90": 1})
    store.put_study("a", "measure", {"d90": 2})
    store.put_study("b", "measure", {"d90": 3})
    assert sorted(study["d90"] for study in store.studies()) == [2, 3]


def test_an_unwritable_place_is_a_failed_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="--store"):
        Store(tmp_path / "file" / "s.sqlite")


FILL = """
import sys
from d90.errors import RunFailed
from d90.training.result import TrialResult
from d90.trials.row import TrialRow
from d90.trials.store import Store
store = Store(sys.argv[1])
recipe = {"model": "m", "task": "t", "method": "full"}
result = TrialResult(1.0)
store.add(TrialRow("first", recipe, result))
try:
    for i in range(10_000):
        store.add(TrialRow(f"k{i}", {**recipe, "pad": "x" * 20_000}, result))
except RunFailed as error:
    print("failed:", error)
    sys.exit(1)
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell's file-size limit")
def test_a_full_disk_is_reported_and_earlier_trials_survive(tmp_path: Path) -> None:
    # a limit on the file's size stands for a full disk: both are refused writes in the middle of the work
    path = tmp_path / "s.sqlite"
    command = f"trap '' XFSZ; ulimit -f 2000; exec {sys.executable} - {path}"
    done = subprocess.run(["bash", "-c", command], input=FILL, text=True, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Trials stored before are safe" in done.stdout
    rows = Store(path).trials()
    assert rows[0].key == "first"
    assert len(rows) > 5


def test_a_damaged_store_is_reported_with_its_rescue(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path)
    for number in range(200):
        add(store, key=f"key {number}")
    store.close()
    content = path.read_bytes()
    path.write_bytes(content[:8192] + bytes(len(content) - 8192))
    with pytest.raises(StoreError, match=r"damaged \(.*\.recover"):
        Store(path).trials()


def test_a_row_without_json_is_a_damaged_store(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path)
    add(store)
    for broken in ("{", "[1]", "\x00"):
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE trials SET recipe = ?", (broken,))
        db.close()
        with pytest.raises(StoreError, match="is damaged"):
            store.trials()


def test_a_store_that_lacks_a_table_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    Store(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE studies")
    db.close()
    with pytest.raises(StoreError, match="no such table"):
        Store(path, write=False).studies()


def test_a_locked_store_says_who_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d90.trials.store.WAIT", 0.1)
    path = tmp_path / "s.sqlite"
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunFailed, match=r"is locked: another process.*--store"):
        add(store)
    other.execute("COMMIT")
    other.close()
    add(store)
    assert len(store.trials()) == 1
