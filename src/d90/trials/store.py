"""The store of trials: one SQLite file, written only by the driver, each trial as it ends.

WAL with synchronous=FULL: a trial whose row was committed survives kill -9 and a power cut. A trial's key is the hash
of its recipe, its data and its base; a trial that stopped at a threshold is kept beside a finished one of the same key,
and serves any threshold up to its score; one pruned serves any threshold from its own on.

The view `runs` (`d90.trials.view`) has a row for each trial. A store of an earlier schema is brought up to date when it is
opened for writing; opened with `write=False` it is read as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d90.errors import D90Error, RunFailed, StoreError
from d90.files import Json
from d90.trials.view import RUNS

if TYPE_CHECKING:  # rows need torch, and a command names its store before its mistakes are named
    from d90.trials.row import TrialRow

__all__ = ["SCHEMA", "Store", "digest"]

SCHEMA = 3
CHECKPOINT_MINUTES = 10.0
WAIT = 30  # seconds for another process to finish writing

_FIRST = """
CREATE TABLE IF NOT EXISTS trials (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,            -- hash of recipe, data and base
    stop_at REAL,                 -- the threshold it would stop at; NULL: none
    ended TEXT NOT NULL,          -- UTC
    d INTEGER,                    -- NULL: no subspace
    seed INTEGER NOT NULL,
    score REAL NOT NULL,          -- best of the evaluations; a lower bound where status is 'passed'
    status TEXT NOT NULL,         -- finished, passed, hopeless, diverged or read
    recipe TEXT NOT NULL,         -- JSON
    outcome TEXT NOT NULL,        -- JSON
    context TEXT NOT NULL         -- JSON: fingerprints, versions, machine
);
CREATE UNIQUE INDEX IF NOT EXISTS one_trial ON trials (key, ifnull(stop_at, 'none'));
CREATE TABLE IF NOT EXISTS studies (
    key TEXT PRIMARY KEY,         -- hash of what was asked
    updated TEXT NOT NULL,
    kind TEXT NOT NULL,           -- 'measure', 'compare', ...
    body TEXT NOT NULL            -- JSON: the result as reported
);
"""
_SECOND = """
-- of the best evaluation on the validation split (`d90.trials.predictions`)
ALTER TABLE trials ADD COLUMN predictions BLOB;
-- the keys of the trials a study rests on: made for it (1), or there when it began (0)
CREATE TABLE study_trials (study TEXT NOT NULL, trial TEXT NOT NULL, made INTEGER NOT NULL, PRIMARY KEY (study, trial));
"""
# the view of schema 2 had a column `D` beside `d`, which SQLite takes for one name
_THIRD = f"""
DROP VIEW IF EXISTS runs;
CREATE VIEW runs AS {RUNS};
"""
_NOTE = "INSERT INTO study_trials VALUES (?, ?, 1) ON CONFLICT (study, trial) DO UPDATE SET made = 1"
_COLUMNS = "key, stop_at, ended, d, seed, score, status, recipe, outcome, context"


class Store:
    """Open a store, made if it is not there; with `write=False` one that is there, which is left as it is.

    A trial that is under way keeps its state beside the store every `checkpoint_minutes`, and goes on from there after a kill.

    Raises:
        StoreError: written by a newer d90, or not a store.
        RunFailed: the disk is full, or the folder cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], write: bool = True, checkpoint_minutes: float = CHECKPOINT_MINUTES
    ) -> None:
        self.path, self.checkpoint_minutes = Path(path), checkpoint_minutes
        with self._errors():
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # threads of a study take turns (`d90.trials.executor`)
                self._db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            else:
                if not self.path.is_file():
                    raise StoreError(f"no store at '{self.path}'; run 'd90 measure' first, or name one with --store")
                self._db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=WAIT)
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                self._db.close()
                raise StoreError(
                    f"'{self.path}' was written by a newer d90 (schema {version}, this one knows {SCHEMA}). "
                    "Upgrade d90, or name another store; nothing was changed."
                )
            tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            if version == 0 and (tables or not write):
                self._db.close()
                raise StoreError(f"'{self.path}' is an SQLite file but no d90 store; name another path")
            self._version = version
            if write:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._upgrade()

    def _upgrade(self) -> None:
        """Make the tables, or bring an earlier schema up to date: all of it, or nothing."""
        if self._version == SCHEMA:
            return
        with self._transaction():
            # looked at again inside: another process may have been faster
            self._version = self._db.execute("PRAGMA user_version").fetchone()[0]
            for script in (_FIRST, _SECOND, _THIRD)[self._version :]:
                for statement in script.split(";\n"):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={SCHEMA}")
            self._version = SCHEMA

    @property
    def texts(self) -> Path:
        """The folder of texts that models wrote themselves (`d90.training.forgetting`)."""
        return self.path.with_name(f"{self.path.name}.texts")

    @property
    def states(self) -> Path:
        """The folder beside the store where trials that are under way keep their state."""
        return self.path.with_name(f"{self.path.name}.trials")

    def find(self, key: str, stop_at: float | None) -> TrialRow | None:
        """A stored trial that answers for this key and threshold.

        One that ran to its end, or stopped at or above the threshold, or was pruned for one no higher.
        """
        rows = self._rows("WHERE key = ?", (key,), predictions=True)
        whole = [row for row in rows if row.status not in ("passed", "hopeless")]
        enough = [row for row in rows if stop_at is not None and row.score >= stop_at]
        given_up = [
            row
            for row in rows
            if stop_at is not None and row.status == "hopeless" and row.stop_at is not None and row.stop_at <= stop_at
        ]
        return next(iter(whole or enough or given_up), None)

    def add(self, row: TrialRow, study: str | None = None) -> None:
        """Write one ended trial, over an earlier one of its key and threshold; durable when this returns.

        `study` is the key of the study it was made for.
        """
        ended = replace(row, ended=_now())
        values = (*ended.columns, ended.result.predictions or None)
        with self._errors(), self._transaction():
            self._db.execute(
                f"INSERT OR REPLACE INTO trials ({_COLUMNS}, predictions) VALUES (?,?,?,?,?,?,?,?,?,?,?)", values
            )
            if study is not None:
                self._db.execute(_NOTE, (study, ended.key))

    def trials(self) -> list[TrialRow]:
        """Every trial without its predictions, in the order they ended."""
        return self._rows()

    def runs(self) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The view's columns and rows, whether the file has the view or not."""
        with self._errors():
            cursor = self._db.execute(f"SELECT * FROM ({RUNS})")
            return [column[0] for column in cursor.description], cursor.fetchall()

    def used(self, study: str) -> dict[str, bool]:
        """The keys of the trials a study rests on, and whether they were made for it."""
        if self._version < 2:
            return {}
        found = self._read("SELECT trial, made FROM study_trials WHERE study = ? ORDER BY trial", (study,))
        return {trial: bool(made) for trial, made in found}

    def begin(self, study: str, trials: Iterable[str]) -> None:
        """Note the trials that were there when a study began: what others add later does not change its answer."""
        with self._errors(), self._transaction():
            rows = [(study, trial) for trial in trials]
            self._db.executemany("INSERT OR IGNORE INTO study_trials VALUES (?, ?, 0)", rows)

    def note(self, study: str, trial: str) -> None:
        """Note that a trial is a study's own."""
        with self._errors(), self._transaction():
            self._db.execute(_NOTE, (study, trial))

    def put_study(self, key: str, kind: str, body: Json) -> None:
        """Write a study's result, over an earlier one of the same key."""
        with self._errors(), self._transaction():
            self._db.execute(
                "INSERT INTO studies VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET updated=excluded.updated, body=excluded.body",
                (key, _now(), kind, json.dumps(body, sort_keys=True)),
            )

    def all_studies(self) -> list[tuple[str, str, Json]]:
        """(key, kind, result) of every study, oldest first."""
        found = self._read("SELECT key, kind, body FROM studies ORDER BY updated, rowid")
        return [(key, kind, self._json(body)) for key, kind, body in found]

    def studies(self, kind: str = "measure") -> list[Json]:
        """Every study's result of one kind, oldest first."""
        found = self._read("SELECT body FROM studies WHERE kind = ? ORDER BY updated, rowid", (kind,))
        return [self._json(row[0]) for row in found]

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Around what reads a study's result: one that lacks what d90 writes is a damaged store, and no traceback.

        Raises:
            StoreError: in place of what reading such a result raises.
        """
        try:
            yield
        except D90Error:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise self._advice(error) from error

    def __del__(self) -> None:
        """What was left open is closed with the store that goes, as SQLite asks."""
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._db.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _rows(self, where: str = "", values: tuple[Any, ...] = (), predictions: bool = False) -> list[TrialRow]:
        from d90.trials.row import TrialRow

        blob = "predictions" if predictions and self._version > 1 else "NULL"
        found = self._read(f"SELECT id, {_COLUMNS}, {blob} FROM trials {where} ORDER BY id", values)
        with self._errors():
            return [TrialRow.from_columns(number, tuple(columns), blob) for number, *columns, blob in found]

    def _json(self, text: Any) -> Json:
        from d90.trials.row import json_object

        with self._errors():
            return json_object(text)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # what went wrong first is what is said
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._errors():
            return self._db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise self._advice(error) from None
        except OSError as error:
            raise RunFailed(f"'{self.path}': {error.strerror}. Choose another folder with --store.") from None

    def _advice(self, error: Exception) -> Exception:
        """The error for what SQLite, or the JSON in a row, was stopped by: each cause with its own next step."""
        said, code = str(error), getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            return StoreError(f"'{self.path}' is not an SQLite file, so no d90 store; name another path")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return RunFailed(
                f"'{self.path}' is locked: another process has been writing to it for {WAIT} seconds. Wait until it ends, or name "
                "another store with --store; nothing was changed"
            )
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return RunFailed(
                f"'{self.path}': {said}. Trials stored before are safe; free some space or fix the folder's permissions and "
                "run it again"
            )
        return StoreError(
            f"'{self.path}' is damaged ({type(error).__name__}: {said[:120]}). Keep a copy, save what can be read with "
            f"'sqlite3 {self.path.name} .recover | sqlite3 saved.sqlite', and go on with --store saved.sqlite"
        )


def digest(asked: Any) -> str:
    """The key of a study: of what was asked."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
