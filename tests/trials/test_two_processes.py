"""Two processes that measure into one store at once: both end, and no trial is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from d90.trials.store import Store
from tests.reference.trials import MODEL, idx_folder

MEASURE = """
import sys
import d90
from tests.reference.blobs import FAST
model, task, store, rule = sys.argv[1:]
d90.measure(model, task, rule=rule, store=store, budget=5, start=32, baseline_lr=0.01, **FAST)
"""


@pytest.mark.slow
@pytest.mark.parametrize("rules", [("paper", "paper"), ("paper", "gain")])
def test_two_processes_measure_into_one_store(tmp_path: Path, rules: tuple[str, str]) -> None:
    task, path = idx_folder(tmp_path / "data"), tmp_path / "s.sqlite"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MEASURE, MODEL, task, str(path), rule], stderr=subprocess.PIPE, text=True
        )
        for rule in rules
    ]
    for process in running:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    store = Store(path, write=False)
    studies = store.all_studies()
    assert len(studies) == len(set(rules)), "each question has its answer"
    stored = {row.key for row in store.trials()}
    for key, _, body in studies:
        used = store.used(key)
        assert {trial for trial, made in used.items() if made} <= stored, "no trial of an answer is lost"
        seeds = {(row.d, row.seed) for row in store.trials() if row.key in used}
        assert {(point["d"], point["seed"]) for point in body["curve"]} <= seeds
    # written twice by both, a trial has one row: equal keys and thresholds are equal runs
    assert len({(row.key, row.stop_at) for row in store.trials()}) == len(store.trials())
