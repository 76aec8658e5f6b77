"""Studies whose trials run elsewhere: what is stored is what would be stored without; killed workers; what cannot be sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import d90
from d90 import compare
from d90.errors import InputError
from d90.search import NextTrial, Observation, SearchProblem, search
from d90.search.rules import Goal
from d90.studies.low_data import low_data
from d90.training.progress import Progress
from d90.trials.local import Local
from d90.trials.store import Store
from tests.reference.blobs import blobs
from tests.reference.trials import MODEL, QUICK, idx_folder, rows


@pytest.fixture
def local() -> Iterator[Local]:
    executor = Local(2)
    yield executor
    executor.close()


class Killer(Progress):
    """Kills the first worker that has scored, once."""

    def __init__(self, executor: Local) -> None:
        self.executor, self.killed, self.notes, self.ended = executor, 0, list[str](), 0

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        if not self.killed:
            self.killed = next(iter(self.executor.live)).pid
            os.kill(self.killed, signal.SIGKILL)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def trial_ended(self, label: str, message: str) -> None:
        self.ended += 1


def test_a_low_data_study_is_the_same_elsewhere_with_a_worker_killed(tmp_path: Path, local: Local) -> None:
    task, seen = idx_folder(tmp_path / "data"), Killer(local)
    options = {**QUICK, "least_steps": 4, "seeds": 2}
    here = low_data(MODEL, task, ["full@d=40"], (60, None), store=tmp_path / "here.sqlite", **options)
    there = low_data(
        MODEL,
        task,
        ["full@d=40"],
        (60, None),
        store=tmp_path / "there.sqlite",
        progress=seen,
        executor=local,
        **options,
    )
    assert rows(tmp_path / "there.sqlite") == rows(tmp_path / "here.sqlite")
    assert [e.scores for c in there.comparisons for e in c.entries] == [
        e.scores for c in here.comparisons for e in c.entries
    ]
    assert seen.killed
    assert [note for note in seen.notes if "its worker died (signal 9" in note and "it runs again" in note]
    assert seen.ended >= len(rows(tmp_path / "there.sqlite"))
    made = {key for key, *_ in rows(tmp_path / "there.sqlite")}
    assert {key for _, kind, _ in Store(tmp_path / "there.sqlite").all_studies() for key in [kind]} == {
        "compare",
        "lowdata",
    }
    assert len(made) == len(rows(tmp_path / "there.sqlite")), "no trial is stored twice"


def test_values_of_d_run_at_once_and_give_the_same_measurement(tmp_path: Path, local: Local) -> None:
    task = idx_folder(tmp_path / "data")
    options = {**QUICK, "dims": (4, 40), "full_curve": True, "budget": 1, "seeds": 1}
    here = d90.measure(MODEL, task, store=tmp_path / "here.sqlite", **options)
    there = d90.measure(MODEL, task, store=tmp_path / "there.sqlite", executor=local, **options)
    assert rows(tmp_path / "there.sqlite") == rows(tmp_path / "here.sqlite")
    assert (there.d90, there.interval, there.status) == (here.d90, here.interval, here.status)
    assert [(p.d, p.seed, p.score) for p in there.curve] == [(p.d, p.seed, p.score) for p in here.curve]


def test_what_a_worker_cannot_open_by_its_name_is_refused(tmp_path: Path, local: Local) -> None:
    with pytest.raises(InputError, match="got a task as an object \\('blobs'\\) and an executor"):
        d90.measure(MODEL, blobs(), store=tmp_path / "s.sqlite", executor=local)
    with pytest.raises(InputError, match="got a task as an object"):
        compare(MODEL, blobs(), ["full"], store=tmp_path / "s.sqlite", executor=local)


def test_the_search_names_ahead_what_it_will_ask_for() -> None:
    """The values of `first` at once; then as many trials as are wanted at a time, each planned as if those before it had ended."""
    made: list[NextTrial] = []
    prefetch: list[list[NextTrial]] = []

    def evaluate(asked: NextTrial) -> Observation:
        made.append(asked)
        score = 0.9 if asked.d is None or asked.d >= 100 else 0.5
        return Observation(asked.d, asked.projection_seed, asked.training_seed, score, score)

    problem = SearchProblem(
        Goal(0.0, 0.9), 1, 10_000, chance=0.1, noise=0.01, first=(30, 300, 3000), budget=10, parallel=2
    )
    search(evaluate, problem, prefetch=lambda coming: prefetch.append(list(coming)))
    assert [asked.d for asked in prefetch[0]] == [30, 300, 3000]
    assert made[1:4] == prefetch[0]
    pairs = prefetch[1:]
    assert pairs
    assert all(len(pair) == 2 and pair[0].training_seed != pair[1].training_seed for pair in pairs)
    assert len(made) <= 10
