"""d90 against accuracy and gap: from stores, trained once where asked, trials untouched."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from d90.errors import InputError
from d90.methods import parse
from d90.options import TaskOptions, TrainingOptions
from d90.report.generalization import gaps_page, rank_correlation
from d90.results.generalization import GeneralizationRow
from d90.results.measure import Measurement, Point
from d90.studies.generalization import LEVELS, generalization
from d90.training.loop import open_model, open_task
from d90.training.recipe import make_recipe
from d90.trials.store import Store
from tests.reference.tiny import tiny_model, tiny_task


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a measurement that found d90 = 20, as `measure` writes one."""
    folder = tmp_path_factory.mktemp("g")
    model, data = str(tiny_model(folder / "base")), str(tiny_task(folder / "data"))
    options = {"epochs": 2, "batch_size": 8, "evaluations": 2, "lr": 0.02, "precision": "fp32"}
    recipe = make_recipe(
        model, data, parse("full@structure=did"), TrainingOptions(**options), TaskOptions(max_length=8)
    )
    task = open_task(data, recipe)
    points = (
        Point(20, 0, 0.6, True, "passed", 1.0, 0),
        Point(20, 1, 0.7, False, "finished", 1.0, 5),
        Point(20, 2, 0.6, False, "finished", 1.0, 2),
    )
    found = Measurement(
        model=model, task=data, method="full@structure=did", metric="accuracy", rule="paper", fraction=0.9, status="found", d90=20,
        interval=(10, 40), D=500, lambdas=0, baseline=0.75, baseline_scores=(0.75,), baseline_method="full", majority=0.5, zero=0.5,
        threshold=0.675, curve=points, seconds=1.0,
        recipe={key: value for key, value in asdict(recipe).items() if key not in ("method", "seed")},
        definitions={"task": task.fingerprint, "base": open_model(model, task, recipe).fingerprint, "seeds": [0, 1]},
    )  # fmt: skip
    kept = Store(folder / "s.sqlite")
    kept.put_study("a", "measure", found.to_dict())
    kept.put_study("b", "measure", replace(found, status="unreachable", d90=None).to_dict())
    kept.close()
    return folder / "s.sqlite"


def test_the_store_alone_gives_accuracy_and_says_what_is_lacking(store: Path) -> None:
    (row,) = generalization([store])
    assert (row.d90, row.baseline, row.interval) == (20, 0.75, (10, 40))
    assert (row.train, row.gap) == (None, None)
    assert "not trained" in row.note


def test_trained_once_and_kept_without_a_change_to_the_trials(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Store(store, write=False).trials()
    (row,) = generalization([store], train=True)
    assert row.train is not None
    assert row.evaluation is not None
    assert row.n == 40
    assert row.capacity == pytest.approx((row.d90 * 1.0986122886681098 / 40) ** 0.5)
    if row.evaluation < 1:
        assert row.gap == pytest.approx((row.train - row.evaluation) / (1 - row.evaluation))
    else:
        assert row.gap is None
        assert "0 / 0" in row.note
    assert Store(store, write=False).trials() == before
    ((key, body),) = [(key, body) for key, kind, body in Store(store, write=False).all_studies() if kind == "gap"]
    assert body["asked"] == key
    assert (body["recipe"]["seed"], "seed=5" in body["recipe"]["method"]) == (1, True), (
        "the best of those run to their end"
    )
    # training and evaluation hold the same texts here
    assert row.train == row.evaluation
    monkeypatch.setattr("d90.studies.generalization.fit", lambda *a, **k: pytest.fail("trained again"))
    assert generalization([store], train=True) == [row]
    assert generalization([store]) == [row]


def test_a_store_without_an_answer_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s.sqlite")
    with pytest.raises(InputError, match=r"no measurement in .* found d90"):
        generalization([tmp_path / "s.sqlite"])


def test_only_the_methods_asked_for(store: Path) -> None:
    assert len(generalization([store], method="full@")) == len(generalization([store])) == 1
    with pytest.raises(InputError, match="no measurement of a method that begins with 'lora'"):
        generalization([store], method="lora")


def test_a_task_that_changed_is_a_row_with_a_note(store: Path, tmp_path: Path) -> None:
    import json
    import shutil
    import sqlite3

    shutil.copy(store, tmp_path / "s.sqlite")
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as db, db:
        ((key, text),) = db.execute("SELECT key, body FROM studies WHERE key = 'a'").fetchall()
        body = json.loads(text)
        body["definitions"]["task"] = "0" * 64
        db.execute("UPDATE studies SET body = ? WHERE key = ?", (json.dumps(body), key))
    (row,) = generalization([tmp_path / "s.sqlite"], train=True)
    assert row.train is None
    assert "holds other examples now" in row.note


def rows() -> list[GeneralizationRow]:
    space = "full@structure=did,projection=fastfood"
    return [
        GeneralizationRow(
            f"m{i}", task, space, "paper", "accuracy", d, (d // 2, d), 0.9 - d / 1e5, 0.95, 0.9 - d / 1e5, 100, gap, 1.0
        )
        for task, points in (
            ("data/one", ((100, 0.3), (400, 0.2), (900, 0.1))),
            ("<b>$2", ((50, 0.4), (5000, 0.2), (70, 0.5))),
        )
        for i, (d, gap) in enumerate(points)
    ]


def test_the_page_has_both_figures_and_stands_alone() -> None:
    page = gaps_page(rows(), LEVELS, "d90 gap a.sqlite")
    assert page.count("<figure>") == 2
    assert page == gaps_page(rows(), LEVELS, "d90 gap a.sqlite")
    assert not re.search(r"(src|href)=\"(?!#)", page), "nothing is fetched"
    assert "<b>$2" not in page
    assert page.count("<title>m0 on one, full DID, paper rule: d90 = 100") == 2, (
        "each dot tells its measurement, in each figure"
    )
    assert "one -1.00 over 3" in page
    both = rows() + [replace(row, rule="gain") for row in rows()]
    assert "one, gain rule -1.00 over 3" in gaps_page(both, LEVELS), "thresholds of two rules do not compare"
    assert "Too few" in gaps_page(rows()[:1], LEVELS)
    lacking = [replace(row, gap=None, train=None, note="not trained") for row in rows()]
    assert gaps_page(lacking, LEVELS).count("<figure>") == 1


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [5, 4, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 2, 3], [1, 1, 1]) is None


def test_gap_command_writes_a_page(store: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from d90.cli.main import app

    done = CliRunner().invoke(app, ["gap", str(store), "-o", str(tmp_path / "g.html")], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "g.html").read_text().startswith("<!doctype html>")


def test_a_number_given_for_a_baseline_is_no_accuracy(store: Path, tmp_path: Path) -> None:
    kept = Store(tmp_path / "s.sqlite")
    (body,) = [body for key, _, body in Store(store, write=False).all_studies() if key == "a"]
    kept.put_study("a", "measure", body | {"baseline_method": "a given number", "baseline": 1.0})
    kept.close()
    (row,) = generalization([tmp_path / "s.sqlite"])
    assert row.baseline is None
    assert gaps_page([row], LEVELS).count("<figure>") == 0
