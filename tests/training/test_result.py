"""What a trial gave, as it is stored and read back: rows of every age, objectives that d90 does not train, failures."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from d90.errors import InputError
from d90.training.result import Evaluation, TrialContext, TrialResult
from d90.trials.store import Store

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.sqlite")), ids=lambda path: path.stem)
def test_rows_written_long_ago_are_read_and_would_be_written_unchanged(path: Path) -> None:
    store = Store(path, write=False)
    rows = store.trials()
    store.close()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db, db:
        stored = db.execute("SELECT recipe, outcome, context, score, status FROM trials ORDER BY id").fetchall()
    db.close()
    assert len(rows) == len(stored)
    for row, (recipe, outcome, context, score, status) in zip(rows, stored, strict=True):
        told = json.loads(outcome)
        told.setdefault("test", None)  # the first rows do not tell of a test split
        assert row.result.to_dict() == told
        assert row.result.context.to_dict() == json.loads(context)
        assert row.recipe.to_dict() == row.stored_recipe == json.loads(recipe)
        assert (row.score, row.status) == (score, status)


def test_of_an_objective_only_what_was_reported_is_stored() -> None:
    """`d90.Study` tells a cost where training has steps; a part of a baseline stays one."""
    result = TrialResult(0.7, steps=0.25)
    assert result.to_dict() == {"score": 0.7, "status": "finished", "steps": 0.25, "seconds": 0.0}
    assert TrialResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_another_versions_fields_are_left_out_and_missing_ones_say_nothing() -> None:
    found = TrialResult.from_dict({"score": 0.5, "curve": [{"step": 1, "score": 0.5, "loss": 2}], "energy": 3})
    assert (found.score, found.curve, found.trained, found.precision) == (0.5, (Evaluation(1, 0.5, 2.0),), 0, "fp32")
    assert math.isnan(found.lr)
    assert TrialContext.from_dict({"torch": "2", "weather": "fine"}) == TrialContext(torch="2")


@pytest.mark.parametrize("body", [{"steps": "9"}, {"curve": {}}, {"curve": [3]}, {"forgetting": [{}]}, {"score": True}])
def test_something_else_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(InputError):
        TrialResult.from_dict({"score": 0.5, **body})


def test_how_a_trial_ended_is_said_in_a_line() -> None:
    curve = (Evaluation(0, 0.4, 1.0), Evaluation(9, 0.8, 0.5))
    assert TrialResult(0.8, curve=curve, seconds=2.0).describe("accuracy") == "0.8000 in 2 s"
    assert TrialResult(0.8, "passed", curve=curve).describe("accuracy") == "at least 0.8000 in 0 s"
    assert TrialResult(-0.5, "passed", curve=curve).describe("loss") == "at most 0.5000 in 0 s"
    assert TrialResult(0.8, "hopeless", curve=curve).describe("accuracy") == "given up at 0.8000 in 0 s"
    diverged = TrialResult(0.4, "diverged", curve=curve, steps=7)
    assert diverged.describe("accuracy") == "diverged at step 7 (loss not finite), best before 0.4000 in 0 s"
    assert (diverged.failed, diverged.lasting, diverged.last_loss) == (True, True, None)
