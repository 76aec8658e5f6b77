"""A whole measurement on a small task: the answer, the rules, the store, kills and resumption."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import d90
from d90.errors import InputError
from d90.sweep.store import Store
from tests.test_training import FAST, blobs

SMALL = {**FAST, "start": 8, "resolution": 1.3, "baseline_lr": 0.01}


def test_the_answer_is_consistent(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", full_curve=True, **SMALL)
    assert found.status == "found"
    low, high = found.interval
    assert high == found.d90
    assert found.threshold == pytest.approx(0.9 * found.baseline)
    scores = {point.d: point.score for point in found.curve}
    assert scores[high] >= found.threshold > scores[low]
    assert not any(point.at_least for point in found.curve), "--full-curve stops no trial"
    assert found.D == 16 * 32 + 32 + 32 * 3 + 3
    assert found.chance >= 0.3
    assert str(found.d90) in str(found)


def test_asked_again_it_repeats_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "s.sqlite")
    first = d90.measure("mlp:16-32-3", blobs(), store=store, **SMALL)
    rows = len(store.trials())
    monkeypatch.setattr(sys.modules["d90.lab"], "fit", lambda *a, **k: pytest.fail("a stored trial was trained again"))
    second = d90.measure("mlp:16-32-3", blobs(), store=store, **SMALL)
    assert (second.d90, second.curve) == (first.d90, first.curve)
    assert len(store.trials()) == rows
    assert len(store.studies()) == 1


def test_full_curves_serve_both_rules(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    paper = d90.measure("mlp:16-32-3", blobs(), store=store, full_curve=True, **SMALL)
    gain = d90.measure("mlp:16-32-3", blobs(), store=store, full_curve=True, rule="gain", **SMALL)
    assert gain.threshold > paper.threshold
    assert gain.threshold == pytest.approx(gain.chance + 0.9 * (gain.baseline - gain.chance))
    assert gain.d90 >= paper.d90


def test_a_trivial_threshold_is_named_not_numbered(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", fraction=0.2, **SMALL)
    assert found.status == "trivial"
    assert found.d90 is None
    assert "no meaning" in str(found)


def test_an_unreachable_threshold_is_named(tmp_path: Path) -> None:
    found = d90.measure("mlp:16-32-3", blobs(), store=tmp_path / "s.sqlite", baseline=2.0, high=20, **SMALL)
    assert (found.status, found.d90) == ("unreachable", None)
    assert "d90 > 20" in str(found)


def test_seeds_and_said(tmp_path: Path) -> None:
    found = d90.measure(
        "mlp:16-32-3", blobs(), "full@structure=said,layer=tensor", store=tmp_path / "s.sqlite", seeds=3, **SMALL
    )
    assert len(found.baseline_scores) == 3
    assert found.lambdas == 4
    assert min(point.d for point in found.curve) > 4
    assert {point.seed for point in found.curve} >= {0, 1}
    assert found.definitions["layer"] == "tensor"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "best"}, "unknown rule"),
        ({"fraction": 0.0}, "fraction"),
        ({"seeds": 0}, "seeds"),
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
from tests.test_measure import SMALL
from tests.test_training import blobs
print(d90.measure("mlp:16-32-3", blobs(noise=1.0), store=sys.argv[1], **{**SMALL, "epochs": 6}).d90)
"""


def test_killed_at_random_moments_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    """kill -9 in the middle, 4 times here and 20 in benchmarks/kill.py: every stored trial stays, and none is run twice."""
    store = tmp_path / "s.sqlite"
    root = Path(__file__).parents[1]
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
    for _ in range(4):
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
