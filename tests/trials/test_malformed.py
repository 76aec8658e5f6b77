"""Stores that something else wrote to: whatever lies in them, a command ends in one line and the right status."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from d90.trials.store import Store
from tests.reference.attack import STORES, attacks
from tests.reference.command import run

RESULTS = Path(__file__).parents[2] / "docs" / "results"
VALUES: tuple[Any, ...] = (
    None, "", "x", "{", "[]", "null", "{}", '{"score": "high"}', -1, 1e308, b"\xff\xfe", "[" * 5000, '{"curve": 5, "score": 1}', "NaN",
    '{"model": 5, "task": [], "method": {}}', 2**62, '{"d90": 3}',
)  # fmt: skip
SCHEMA = (
    "DROP TABLE trials", "DROP TABLE studies", "ALTER TABLE trials DROP COLUMN outcome", "PRAGMA user_version=1", "DROP VIEW runs",
    "DROP TABLE study_trials", "PRAGMA user_version=-3", "DELETE FROM trials", "CREATE TABLE other (x)", "PRAGMA user_version=99",
    "ALTER TABLE studies RENAME COLUMN body TO content",
)  # fmt: skip


def malform(path: Path, seed: int) -> str:
    """One change that d90 would not make; says which."""
    draw = random.Random(seed)
    if seed % 5 == 4:
        raw = bytearray(path.read_bytes())
        for _ in range(draw.randint(1, 40)):
            raw[draw.randrange(100 if draw.random() < 0.2 else len(raw))] = draw.randrange(256)
        path.write_bytes(bytes(raw[: draw.randrange(len(raw))] if draw.random() < 0.3 else raw))
        return "bytes"
    db = sqlite3.connect(path)
    if seed % 5 == 3:
        said = draw.choice(SCHEMA)
    elif draw.random() < 0.5:
        table, column = draw.choice(
            [
                ("trials", c)
                for c in ("recipe", "outcome", "context", "score", "status", "d", "seed", "stop_at", "ended")
            ]
            + [("studies", "body"), ("studies", "kind"), ("study_trials", "trial")]
        )
        said = f"UPDATE {table} SET {column} = ?"
    else:  # a key of a result, taken out or given another value
        row = db.execute("SELECT key, body FROM studies LIMIT 1").fetchone()
        body = json.loads(row[1])
        key = draw.choice(sorted(body))
        body[key] = draw.choice([None, "x", [], {}, -1, [[]], True])
        if draw.random() < 0.4:
            del body[key]
        db.execute("UPDATE studies SET body = ? WHERE key = ?", (json.dumps(body), row[0]))
        db.commit()
        db.close()
        return f"study without or with another {key}"
    try:
        db.execute(said, (draw.choice(VALUES),) if "?" in said else ())
        db.commit()
    except sqlite3.Error:
        pass  # a constraint of the schema itself
    db.close()
    return said


def good_store(folder: Path) -> Path:
    path = folder / "good.sqlite"
    shutil.copy(RESULTS / "mnist.sqlite", path)
    Store(path).close()  # of today's schema
    with closing(sqlite3.connect(path)) as db, db:  # one study: a page takes its time
        db.execute("DELETE FROM studies WHERE key NOT IN (SELECT key FROM studies LIMIT 1)")
    db.close()
    return path


def fresh_copy(good: Path, path: Path) -> None:
    for name in (path, path.with_name("s.sqlite-wal"), path.with_name("s.sqlite-shm")):
        name.unlink(missing_ok=True)
    shutil.copy(good, path)


COMMANDS = (("report", "--store", "s.sqlite", "--out", "p.html"), ("export", "s.sqlite", "--out", "t.csv"))


@pytest.mark.parametrize("count", attacks(3, 100, STORES))
def test_malformed_stores_end_in_one_line(tmp_path: Path, count: int) -> None:
    good, failed = good_store(tmp_path), []
    for seed in range(count):
        path = tmp_path / "s.sqlite"
        fresh_copy(good, path)
        what = malform(path, seed)
        for command in COMMANDS:
            try:
                done = run(*command, cwd=tmp_path)
            except Exception as error:
                failed.append(f"{seed} ({what}): {command[0]}: {type(error).__name__}: {error}")
                continue
            if done.returncode not in (0, 1, 2) or (done.returncode and done.stderr.count("\n") != 1):
                failed.append(f"{seed} ({what}): {command[0]}: {done.returncode} {done.stderr[-300:]}")
    assert not failed, "\n".join(failed)


def test_each_kind_of_damage_has_its_own_advice(tmp_path: Path) -> None:
    good = good_store(tmp_path)
    for statement, words in (
        ("UPDATE trials SET outcome = 'x'", "is damaged (JSONDecodeError"),
        ("UPDATE trials SET score = 'high'", "is damaged (TypeError: score of trial 1 is 'high')"),
        ("ALTER TABLE studies RENAME COLUMN body TO content", "is damaged (OperationalError: no such column"),
        ("UPDATE studies SET body = '{}'", "is damaged (KeyError"),
    ):
        fresh_copy(good, tmp_path / "s.sqlite")
        with closing(sqlite3.connect(tmp_path / "s.sqlite")) as db, db:
            db.execute(statement)
        db.close()
        done = run(*COMMANDS[0], cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert words in done.stderr
