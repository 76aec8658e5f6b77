"""Rates that a measurement finds, and what it tells of its baseline."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import d90
from d90.results.measure import Point
from d90.search import SearchProblem, SearchResult
from d90.studies.measurement_rates import baseline_doubts, better_than_baseline
from d90.training.result import Evaluation
from d90.trials.store import Store
from tests.reference.blobs import Notes, blobs

MEASURE = importlib.import_module("d90.studies.measure")  # the name is also a function's
SHORT: dict[str, Any] = {"epochs": 8, "batch_size": 32, "evaluations": 3, "start": 32, "budget": 7}


def test_measure_finds_its_rates_and_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = Store(tmp_path / "s.sqlite"), Notes()
    found = d90.measure("mlp:16-32-3", blobs(noise=2.0), store=store, progress=told, **SHORT)
    baseline, trials = found.definitions["rates"]
    assert (baseline["method"], trials["method"].startswith("full@d=32,")) == ("full", True)
    assert found.recipe["lr"] == trials["lr"]
    rows = store.trials()
    assert {row.recipe.lr for row in rows if row.d is not None and row.status != "read" and row.d != 32} <= {
        trials["lr"]
    }
    assert found.baseline_scores[0] == max(t["score"] for t in baseline["trials"] if t["until"] == 1)
    readings = [row for row in rows if row.status == "read"]
    assert readings
    assert all(row.result.steps == 16 and row.recipe.until == 0.2 for row in readings)
    assert found.spent == pytest.approx(sum(row.result.steps for row in rows) / 80), "what the rates cost counts"
    assert found.spent <= SHORT["budget"] + 1.5
    assert sum(note.startswith("learning rate") and "whole runs spent" in note for note in told.notes) == 2
    assert all(row.key in store.used(store.all_studies()[0][0]) for row in rows), "no trial of its own is another's"

    (small,) = (note for note in told.notes if note.startswith("a budget of 7"))
    assert "of which finding the rates takes" in small, "7 are enough without a search for rates, and not with one"

    monkeypatch.setattr(sys.modules["d90.trials.job"], "fit", lambda *a, **k: pytest.fail("trained again"))
    again = d90.measure("mlp:16-32-3", blobs(noise=2.0), store=store, **SHORT)
    assert (again.d90, again.curve, again.spent) == (found.d90, found.curve, found.spent)


def test_a_given_rate_searches_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    found = d90.measure("mlp:16-32-3", blobs(), store=store, lr=0.01, **{**SHORT, "epochs": 2, "budget": 2})
    assert found.definitions["rates"] == []
    assert {row.recipe.lr for row in store.trials()} == {0.01, None}, "the baseline's rate is its default"
    assert not [row for row in store.trials() if row.status == "read"]


def test_rates_are_beside_the_default_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ladders took 5.4 of a default budget, and the search had the rest."""
    asked: list[float] = []

    def search(run: Any, problem: SearchProblem, *given: Any) -> SearchResult:
        asked.append(problem.budget)
        return found(run, problem, *given)

    found = MEASURE.search.search
    monkeypatch.setattr(MEASURE.search, "search", search)
    options = {**SHORT, "budget": None, "resolution": 64}
    told = Notes()
    result = d90.measure("mlp:16-32-3", blobs(noise=2.0), store=tmp_path / "s.sqlite", progress=told, **options)
    assert asked == [9.0]
    assert result.spent > 3, "finding the rates counts"
    assert not [note for note in told.notes if note.startswith("a budget of")]


def looks(*scores: float) -> list[Evaluation]:
    return [Evaluation(10 * i, score, 1.0) for i, score in enumerate(scores)]


def test_a_baseline_near_chance_or_still_improving_is_reported() -> None:
    flat = baseline_doubts(looks(0.5, 0.51, 0.52, 0.52), chance=0.5, noise=0.01, auto=False)
    assert ["not clearly above chance" in line and "--baseline-lr auto" in line for line in flat] == [True]
    rising = baseline_doubts(looks(0.5, 0.6, 0.7, 0.8), chance=0.5, noise=0.01, auto=True)
    assert ["still improving" in line and "epochs" in line and "auto" not in line for line in rising] == [True]
    assert baseline_doubts(looks(0.5, 0.85, 0.88, 0.885), chance=0.5, noise=0.01, auto=True) == []
    loss = baseline_doubts(looks(-8.4, -3.6, -1.6, -1.44), chance=-6.2, noise=0.05, auto=True)
    assert loss == []


def test_a_trial_above_its_baseline_is_reported() -> None:
    points = [Point(d, 0, score, False, "finished", 1.0, 0) for d, score in ((100, 0.6), (1600, 0.99), (3000, 0.985))]
    (line,) = better_than_baseline(points, 0.582, 0.01, "accuracy")
    assert line.startswith("d = 1,600 scored 0.9900, clearly above the baseline's own 0.5820")
    assert better_than_baseline(points, 0.96, 0.01, "accuracy") == []
