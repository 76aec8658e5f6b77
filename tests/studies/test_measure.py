"""A whole measurement on a small task: the answer, the rules, the store, kills and resumption."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import d90
from d90.errors import InputError
from d90.methods import parse
from d90.training.progress import Progress
from d90.trials.predictions import unpack
from d90.trials.store import Store
from tests.reference.attack import KILLS, attacks
from tests.reference.blobs import FAST, SMALL, blobs


def test_the_answer_is_consistent(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", full_curve=True, **SMALL)
    assert found.status == "found"
    low, high = found.interval
    assert (low or 0) <= found.d90 <= (high or found.D)
    assert found.coverage == 0.9
    assert found.noise > 0
    assert "was not trained to its end" in found.trained_there or "threshold" in found.trained_there
    assert found.threshold == pytest.approx(0.9 * found.baseline)
    assert found.baseline == pytest.approx(sum(found.baseline_scores) / len(found.baseline_scores))
    assert not any(point.at_least or point.below for point in found.curve), "--full-curve stops no trial"
    assert max(p.score for p in found.curve) >= found.threshold > min(p.score for p in found.curve)
    assert found.D == 16 * 32 + 32 + 32 * 3 + 3
    assert found.chance >= 0.3
    assert f"d90 = {found.d90}" in str(found)
    assert found.spent == pytest.approx(len(found.curve) + len(found.baseline_scores)), "each trial ran all its steps"
    assert found.spent_seconds > 1
    assert all(a <= b <= c for _, b, a, c in found.band)
    assert [d for d, *_ in found.band] == sorted(d for d, *_ in found.band)


def test_a_projection_of_squares_is_measured_at_squares(tmp_path: Path) -> None:
    """Under kronecker d without lambdas is a square: what is trained, and the answer."""
    found = d90.measure(
        "mlp:16-32-3", blobs(), "full@projection=kronecker", store=tmp_path / "s.sqlite", **SMALL | {"budget": 4}
    )
    assert found.curve
    assert all(math.isqrt(point.d) ** 2 == point.d for point in found.curve)
    assert found.d90 is None or math.isqrt(found.d90) ** 2 == found.d90
    with pytest.raises(InputError, match="got d=10, expected a square"):
        d90.measure(
            "mlp:16-32-3", blobs(), "full@projection=kronecker", store=tmp_path / "s.sqlite", dims=[10], **SMALL
        )


def test_asked_again_it_repeats_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "s.sqlite")
    first = d90.measure("mlp:16-32-3", blobs(), store=store, **SMALL)
    rows = len(store.trials())
    monkeypatch.setattr(
        sys.modules["d90.trials.job"], "fit", lambda *a, **k: pytest.fail("a stored trial was trained again")
    )
    second = d90.measure("mlp:16-32-3", blobs(), store=store, **SMALL)
    assert (second.d90, second.curve) == (first.d90, first.curve)
    assert len(store.trials()) == rows
    assert len(store.studies()) == 1


def test_one_rule_learns_from_the_trials_of_another(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    paper = d90.measure("mlp:16-32-3", blobs(), store=store, full_curve=True, **SMALL)
    rows = {trial.key for trial in store.trials()}
    gain = d90.measure("mlp:16-32-3", blobs(), store=store, full_curve=True, rule="gain", **SMALL)
    assert gain.threshold > paper.threshold
    assert gain.threshold == pytest.approx(gain.chance + 0.9 * (gain.baseline - gain.chance))
    assert {(p.d, p.seed, p.p_seed) for p in paper.curve} <= {(p.d, p.seed, p.p_seed) for p in gain.curve}
    assert d90.measure("mlp:16-32-3", blobs(), store=store, full_curve=True, **SMALL) == paper, (
        "what came later is not learned"
    )
    assert len(store.studies()) == 2
    used = [store.used(key) for key, _, _ in store.all_studies()]
    both = next(study for study in used if not all(study.values()))
    assert {key for key, made in both.items() if not made} < rows
    assert gain.spent < len(gain.curve), "what others trained costs nothing"


def test_a_trivial_threshold_is_named_not_numbered(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", fraction=0.2, **SMALL)
    assert found.status == "trivial"
    assert found.d90 is None
    assert "no meaning" in str(found)


def test_an_unreachable_threshold_is_named(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", baseline=2.0, high=20, **SMALL)
    assert (found.status, found.d90) == ("unreachable", None)
    assert f"d90 is above {found.interval[0]}: not bounded above by these trials" in str(found)
    assert found.interval[1] is None


def test_training_that_failed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as failed is tested in tests/search; here, that a measurement says so wherever it is read."""
    monkeypatch.setattr("d90.search.summary.probability_failed", lambda trial, fit: 0.9 if trial.d == 600 else 0.1)
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", dims=(16, 600), budget=1, **SMALL)
    (note,) = found.definitions["notes"]
    assert note.startswith("d = 600 (seed 1): training most likely failed there")
    assert found.failed == ((600, 1, 1),)


def test_a_small_budget_is_warned_of_and_one_invents_no_end(tmp_path: Path) -> None:
    notes: list[str] = []

    class Notes(Progress):
        def note(self, message: str) -> None:
            notes.append(message)

    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", budget=1, progress=Notes(), **SMALL)
    assert any("a budget of 1 leaves a wide interval" in note for note in notes)
    assert (found.status, found.d90, found.interval, found.sure) == ("unknown", None, (None, None), None)
    assert "not bounded by these trials: the budget was spent before any d was tried" in str(found)
    assert "no d passes with a probability of 90 %" in found.shipped
    two = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", budget=2, **{**SMALL, "start": 500})
    assert two.status == "floor"
    assert two.interval == (None, two.d90)
    assert f"d90 is at most {two.d90}: not bounded below" in str(two)


def test_seeds_and_said(tmp_path: Path) -> None:
    method = "full@structure=said,layer=tensor"
    options = {**SMALL, "resolution": 3.0, "epochs": 6}
    found = d90.measure("mlp:16-32-3", blobs(), method, store=tmp_path / "s.sqlite", **options)
    assert found.lambdas == 4
    assert min(point.d for point in found.curve) > 4
    assert found.definitions["layer"] == "tensor"
    named = [t.recipe.method for t in Store(tmp_path / "s.sqlite").trials() if "seed=" in t.recipe.method]
    assert len(named) == sum(point.p_seed != point.seed for point in found.curve)


def test_a_method_that_names_its_seed_keeps_it(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), "full@seed=7", store=tmp_path / "s.sqlite", budget=6, **SMALL)
    assert {point.p_seed for point in found.curve} == {7}
    assert len({point.seed for point in found.curve}) == len(found.curve)


def test_the_margin_rule_compares_example_by_example(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    options = {**SMALL, "resolution": 2.0}
    found = d90.measure("mlp:16-32-3", blobs(noise=1.0), within=6, store=store, **options)
    assert (found.rule, found.within) == ("margin", 6)
    assert found.threshold == pytest.approx(found.baseline - 0.06)
    assert len(found.baseline_scores) == 2
    assert all(point.lower is not None and point.lower <= point.score for point in found.curve)
    rows = [t for t in store.trials() if t.d is not None]
    assert all(store.find(t.key, None).result.predictions for t in rows)
    for trial in rows[:3]:
        predicted = unpack(store.find(trial.key, None).result.predictions)
        assert (predicted == blobs(noise=1.0).validation.labels.numpy()).mean() == pytest.approx(trial.score)
    if found.status == "found":
        assert any(point.lower >= -0.06 for point in found.curve)
    assert any("four times of five where there are" in note for note in found.definitions["notes"])
    assert "within 6 points of full" in str(found)


def test_a_loss_and_a_correlation_take_the_gain_rule(tmp_path: Path) -> None:
    task = replace(blobs(), metric="loss")
    found = d90.measure("mlp:16-32-3", task, store=tmp_path / "s.sqlite", budget=6, **SMALL)
    assert found.rule == "gain"
    assert found.baseline < 0
    assert found.chance < found.threshold < found.baseline
    assert f"loss {-found.threshold:.4f} = 0.9 of the way from chance to {-found.baseline:.4f}" in str(found)
    given = d90.measure("mlp:16-32-3", task, store=tmp_path / "s.sqlite", budget=6, baseline=-found.baseline, **SMALL)
    assert (given.baseline, given.threshold) == (found.baseline, found.threshold), "a loss is given as a loss"
    with pytest.raises(InputError, match="expected rule 'gain'"):
        d90.measure("mlp:16-32-3", task, store=tmp_path / "s.sqlite", rule="paper", **SMALL)
    values = d90.measure("mlp:16-32-1", blobs(kind="regression"), store=tmp_path / "r.sqlite", budget=5, **SMALL)
    assert (values.rule, values.metric) == ("gain", "pearson")


def test_what_is_reported_as_test_accuracy_selected_nothing(tmp_path: Path) -> None:
    options = {**SMALL, "resolution": 2.0}
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", test=True, **options)
    assert found.test is not None
    assert found.baseline_test > 0.9
    assert found.recipe["columns"] == {}, "the task has a test split of its own"
    tested = [t for t in Store(tmp_path / "s.sqlite").trials() if t.result.test is not None]
    assert {t.d for t in tested} == {found.d90, None}
    without = replace(blobs(), test=None)
    made = d90.measure("mlp:16-32-3", without, store=tmp_path / "m.sqlite", test=True, **options)
    assert made.test is not None
    assert made.recipe["columns"] == {"test": "made"}
    assert any("test: 30 of the training examples" in note for note in made.definitions["notes"])
    assert made.definitions["task"] == without.with_test().fingerprint != without.fingerprint


def test_a_trial_that_will_fail_is_pruned_and_stored_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "s.sqlite")
    monkeypatch.setattr(sys.modules["d90.search.pruning"], "will_fail", lambda scores, *_: max(scores) < 0.6)
    options = {**SMALL, "start": 2, "budget": 6}
    found = d90.measure("mlp:16-32-3", blobs(), store=store, **options)
    below = [point for point in found.curve if point.below]
    assert below
    assert all(point.status == "hopeless" and point.score < 0.6 for point in below)
    row = next(t for t in store.trials() if t.status == "hopeless")
    assert row.result.steps < 30
    assert row.stop_at is not None
    kept = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "k.sqlite", prune=False, **options)
    assert not any(point.below for point in kept.curve)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "best"}, "unknown rule"),
        ({"fraction": 0.0}, "fraction"),
        ({"seeds": 0}, "seeds"),
        ({"budget": 0}, "budget"),
        ({"within": 1.0, "baseline": 0.9}, "compared one by one"),
        ({"within": 1.0, "rule": "gain"}, "leave one out"),
        ({"dims": (0,)}, "got d=0"),
        ({"dims": (10**6,)}, "got d=1000000"),
        ({"method": "full@structure=said,layer=tensor", "high": 3}, "range of d"),
    ],
)
def test_bad_questions_are_refused(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", **{**SMALL, **options})


DRIVER = """
import sys
import d90
from tests.reference.blobs import FAST, SMALL, blobs
print(d90.measure("mlp:16-32-3", blobs(noise=1.0), store=sys.argv[1], **{**SMALL, "epochs": 6}).d90)
"""


@pytest.mark.parametrize("kills", attacks(4, 10, KILLS))
def test_killed_at_random_moments_nothing_is_lost_or_repeated(tmp_path: Path, kills: int) -> None:
    """kill -9 in the middle, 50 times in `make attack`: every stored trial stays, and none is run twice."""
    store = tmp_path / "s.sqlite"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", DRIVER, str(store)]
    draw = random.Random(0)
    kept: list[tuple] = []
    began = time.monotonic()
    whole = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "whole.sqlite")],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    took = time.monotonic() - began
    for _ in range(kills):
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(took * draw.uniform(0.6, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if store.exists():
            rows = [(t.key, t.ended, t.score) for t in Store(store).trials()]
            assert rows[: len(kept)] == kept, "a finished trial was lost"
            kept = rows
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    rows = [t.key for t in Store(store).trials()]
    assert len(rows) == len(set(rows)), "a finished trial was repeated"
    assert done.stdout == whole.stdout
    assert rows == [t.key for t in Store(tmp_path / "whole.sqlite").trials()]


def test_a_measurement_leaves_the_tune_that_passed_its_line_and_another_space(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    small = d90.compare("mlp:16-32-3", blobs(), ["bitfit"], store=store, costs=False, **{**FAST, "lr": 0.05})
    found = d90.measure("mlp:16-32-3", blobs(), store=store, **SMALL)
    assert found.d90 is not None
    tune = tmp_path / "s.d90"
    assert found.tune == str(tune)
    scored = d90.open_tune(tune).evaluate(blobs(), "validation").score
    assert scored >= found.threshold
    header = json.loads(tune.with_suffix(".json").read_text())
    d = parse(header["recipe"]["method"]).space.d
    assert d == min(point.d for point in found.curve if found.reached(point) and point.d >= found.d90)
    assert found.line.startswith(f"d90 train mlp:16-32-3 blobs --method full@d={d}")
    assert "--lr 0.01" in found.line
    assert not (tmp_path / "s.sqlite.trials").exists()
    passes = small.entries[0].validation[0] >= found.threshold
    assert found.other.startswith("bitfit: 131 numbers trained") == passes
    again = d90.measure("mlp:16-32-3", blobs(), store=store, **SMALL)
    assert again == found
