"""The store of trials: one SQLite file, written only by the driver, each trial as it ends.

WAL with synchronous=FULL: a trial whose row was committed survives kill -9 and a power cut. A trial's key is the hash
of its recipe, its data and its base; a trial that stopped at a threshold is kept beside a finished one of the same key,
and serves any threshold up to its score.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d90.errors import RunFailed, StoreError

__all__ = ["SCHEMA", "Store", "Stored", "hashed"]

SCHEMA = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS trials (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,            -- hash of recipe, data and base
    stop_at REAL,                 -- the threshold it would stop at; NULL: none
    ended TEXT NOT NULL,          -- UTC
    d INTEGER,                    -- NULL: no subspace
    seed INTEGER NOT NULL,
    score REAL NOT NULL,          -- best of the evaluations; a lower bound where status is 'passed'
    status TEXT NOT NULL,         -- finished, passed or diverged
    recipe TEXT NOT NULL,         -- JSON
    outcome TEXT NOT NULL,        -- JSON
    context TEXT NOT NULL         -- JSON: fingerprints, versions, machine
);
CREATE UNIQUE INDEX IF NOT EXISTS one_trial ON trials (key, ifnull(stop_at, 'none'));
CREATE TABLE IF NOT EXISTS studies (
    key TEXT PRIMARY KEY,         -- hash of what was asked
    updated TEXT NOT NULL,
    kind TEXT NOT NULL,           -- 'measure' or 'compare'
    body TEXT NOT NULL            -- JSON: the result as reported
);
"""


@dataclass(frozen=True)
class Stored:
    """One trial's row."""

    id: int
    key: str
    stop_at: float | None
    ended: str
    d: int | None
    seed: int
    score: float
    status: str
    recipe: dict[str, Any]
    outcome: dict[str, Any]
    context: dict[str, Any]


class Store:
    """Open a store, made if it is not there.

    Raises:
        StoreError: written by a newer d90, or not a store.
        RunFailed: the disk is full, or the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                self._db.close()
                raise StoreError(
                    f"'{self.path}' was written by a newer d90 (schema {version}, this one knows {SCHEMA}). "
                    "Upgrade d90, or name another store; nothing was changed."
                )
            tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            if version == 0 and tables:
                self._db.close()
                raise StoreError(f"'{self.path}' is an SQLite file but no d90 store; name another path")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            if version < SCHEMA:
                with self._transaction():
                    for statement in _TABLES.split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version={SCHEMA}")

    def find(self, key: str, stop_at: float | None) -> Stored | None:
        """A stored trial that answers for this key and threshold: one that ran to its end, or one stopped at or above it."""
        rows = [self._row(row) for row in self._db.execute("SELECT * FROM trials WHERE key = ? ORDER BY id", (key,))]
        whole = [row for row in rows if row.status != "passed"]
        enough = [row for row in rows if stop_at is not None and row.score >= stop_at]
        return next(iter(whole or enough), None)

    def add(
        self,
        key: str,
        stop_at: float | None,
        d: int | None,
        seed: int,
        recipe: dict[str, Any],
        outcome: dict[str, Any],
        context: dict[str, Any],
    ) -> None:
        """Write one ended trial, over an earlier one of its key and threshold; durable when this returns."""
        body = [json.dumps(part, sort_keys=True) for part in (recipe, outcome, context)]
        row = (key, stop_at, _now(), d, seed, outcome["score"], outcome["status"], *body)
        columns = "key, stop_at, ended, d, seed, score, status, recipe, outcome, context"
        with self._errors(), self._transaction():
            self._db.execute(f"INSERT OR REPLACE INTO trials ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", row)

    def trials(self) -> list[Stored]:
        """Every trial, in the order they ended."""
        return [self._row(row) for row in self._db.execute("SELECT * FROM trials ORDER BY id")]

    def put_study(self, key: str, kind: str, body: dict[str, Any]) -> None:
        """Write a study's result, over an earlier one of the same key."""
        with self._errors(), self._transaction():
            self._db.execute(
                "INSERT INTO studies VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET updated=excluded.updated, body=excluded.body",
                (key, _now(), kind, json.dumps(body, sort_keys=True)),
            )

    def studies(self, kind: str = "measure") -> list[dict[str, Any]]:
        """Every study's result of one kind, oldest first."""
        found = self._db.execute("SELECT body FROM studies WHERE kind = ? ORDER BY updated", (kind,))
        return [json.loads(row[0]) for row in found]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @staticmethod
    def _row(row: tuple[Any, ...]) -> Stored:
        return Stored(*row[:8], *(json.loads(part) for part in row[8:]))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise StoreError(f"'{self.path}' is not an SQLite file, so no d90 store; name another path") from None
            why = f"'{self.path}': {error}. Trials stored before are safe; free some space or fix the folder and run it again."
            raise RunFailed(why) from None
        except OSError as error:
            raise RunFailed(f"'{self.path}': {error.strerror}. Choose another folder with --store.") from None


def hashed(asked: Any) -> str:
    """The key of a study: of what was asked."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
