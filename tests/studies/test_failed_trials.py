"""Trials that diverge or exhaust memory: what they say (nothing), what goes on, what is a failed run."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90 import compare
from d90.errors import RunFailed, TrainingFailed
from d90.methods import parse
from d90.studies.low_data import low_data
from d90.studies.series import trajectory
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.trials import job
from d90.trials.job import TrialJob, result_in
from d90.trials.request import TrialRequest
from d90.trials.store import Store
from tests.reference.blobs import FAST, SMALL, Notes, blobs
from tests.reference.trials import MODEL, idx_folder

OPTIONS = {**SMALL, "budget": 6}


def changed_fit(monkeypatch: pytest.MonkeyPatch, change: Callable[[Recipe, Callable[[], Any]], Any]) -> None:
    """Have `change` called in place of training: with the recipe, and what trains."""
    fit = job.fit

    def patched(data: Any, spec: Any, recipe: Recipe, **given: Any) -> Any:
        return change(recipe, lambda: fit(data, spec, recipe, **given))

    monkeypatch.setattr(sys.modules["d90.trials.job"], "fit", patched)


def test_every_trial_diverging_is_a_failed_run_that_names_the_rate(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(
        TrainingFailed, match=r"of full in a subspace, of 3, diverged.*learning rate 1e\+30.*--lr 1e\+29"
    ) as caught:
        d90.measure(MODEL, blobs(), store=store, **{**OPTIONS, "lr": 1e30})
    assert "d90" not in str(caught.value), "nothing is said of d90"
    assert [row.status for row in store.trials()].count("diverged") == 3, "and three trials are enough to say so"
    assert store.studies() == []


def test_one_value_of_d_that_diverges_is_a_failed_run_too(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"every trial .*diverged"):
        d90.measure(MODEL, blobs(), store=tmp_path / "s.sqlite", dims=(16,), **{**OPTIONS, "budget": 1, "lr": 1e30})


@pytest.mark.parametrize("rule", ["paper", "margin"])
def test_a_baseline_that_diverges_is_a_failed_run(tmp_path: Path, rule: str) -> None:
    given = {"rule": rule, "within": 5.0} if rule == "margin" else {"rule": rule}
    with pytest.raises(TrainingFailed, match=r"the baseline, full, diverged.*1e\+30.*--baseline-lr 1e\+29"):
        d90.measure(MODEL, blobs(), store=tmp_path / "s.sqlite", **given, **{**OPTIONS, "baseline_lr": 1e30})


def test_a_run_that_diverges_at_its_first_step_is_a_failed_run(tmp_path: Path) -> None:
    task = blobs()
    broken = replace(task, train=replace(task.train, inputs=torch.full_like(task.train.inputs, math.nan)))
    with pytest.raises(TrainingFailed, match=r"the baseline, full, diverged: the loss was not finite, from step 1 on"):
        d90.measure(MODEL, broken, store=tmp_path / "s.sqlite", **OPTIONS)


def test_a_validation_loss_that_is_not_finite_is_a_failed_run(tmp_path: Path) -> None:
    task = blobs()
    inputs = task.validation.inputs.clone()
    inputs[0] = math.nan
    broken = replace(task, validation=replace(task.validation, inputs=inputs))
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(TrainingFailed, match=r"the baseline, full, diverged"):
        d90.measure(MODEL, broken, store=store, **OPTIONS)
    assert [row.status for row in store.trials()] == ["diverged"]


def test_a_diverged_trial_says_nothing_and_a_low_score_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial at d = 600 diverges with the untrained score: that is no d that falls short."""

    def diverge(recipe: Recipe, train: Callable[[], Any]) -> Any:
        outcome, applied = train()
        if "@d=600," in recipe.method:
            outcome = replace(outcome, status="diverged", score=outcome.zero_score, steps=1)
        return outcome, applied

    whole = d90.measure(MODEL, blobs(), store=tmp_path / "a.sqlite", dims=(16, 300), **OPTIONS)
    changed_fit(monkeypatch, diverge)
    found = d90.measure(MODEL, blobs(), store=tmp_path / "b.sqlite", dims=(16, 300, 600), **OPTIONS)
    assert found.failed == ((600, 2, 2),)
    assert [point.status for point in found.curve if point.d == 600] == ["diverged"]
    assert found.interval[1] is not None
    assert found.interval[1] < 600, "a trial that failed at d = 600 pulls no interval up"
    assert whole.interval[1] is not None
    (note,) = [note for note in found.definitions["notes"] if "failed" in note]
    assert note.startswith("d = 600 (seed 2): training most likely failed there")
    again = d90.measure(MODEL, blobs(), store=tmp_path / "b.sqlite", dims=(16, 300, 600), **OPTIONS)
    assert again == found, "resumed, it is the same"


ERRORS = {
    "python": lambda: MemoryError(),
    "torch": lambda: torch.empty(1 << 58),  # what torch's allocator itself raises
    "device": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_memory_exhausted_by_a_trial_is_its_own_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[tuple[str, int]] = []

    def exhaust(recipe: Recipe, train: Callable[[], Any]) -> Any:
        asked.append((recipe.method, recipe.seed))
        if len(asked) == 3:  # the second trial in a subspace
            raise error if isinstance(error := ERRORS[kind](), Exception) else AssertionError
        return train()

    changed_fit(monkeypatch, exhaust)
    store, progress = Store(tmp_path / "s.sqlite"), Notes()
    found = d90.measure(MODEL, blobs(), store=store, progress=progress, **OPTIONS)
    method, seed = asked[2]
    d = parse(method).space.d
    assert len(asked) > 3, "the search goes on"
    assert (method, seed) not in [(row.recipe.method, row.seed) for row in store.trials()], (
        "with more memory it would run"
    )
    assert seed not in [row.seed for row in store.trials() if row.d is not None], "with another seed"
    assert (d, seed, seed) in found.failed
    assert any("memory was exhausted there" in note for note in progress.notes)
    assert all(math.isfinite(point.score) for point in found.curve)


def test_memory_exhausted_by_every_trial_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(recipe: Recipe, train: Callable[[], Any]) -> Any:
        if "@" in recipe.method:
            torch.empty(1 << 58)
        return train()

    changed_fit(monkeypatch, exhaust)
    with pytest.raises(
        TrainingFailed, match=r"every trial of full in a subspace, of 3, failed: memory was exhausted .*--batch-size"
    ):
        d90.measure(MODEL, blobs(), store=tmp_path / "s.sqlite", **OPTIONS)


def test_memory_exhausted_in_a_worker_is_reported_as_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_fit(monkeypatch, lambda recipe, train: torch.empty(1 << 58))
    recipe = Recipe(MODEL, idx_folder(tmp_path / "data"), "full@d=16", **FAST)
    sent = json.loads(json.dumps(TrialJob(TrialRequest(parse(recipe.method), recipe), None).to_dict()))
    told = result_in(json.loads(json.dumps(job.run_job(sent, Progress()))))
    assert (told.status, told.failed, told.lasting) == ("failed", True, False)
    assert "memory" in told.error


def test_a_method_whose_trials_all_diverge_is_left_out_of_a_comparison(tmp_path: Path) -> None:
    progress = Notes()
    found = compare(
        MODEL, blobs(), ["full", "bitfit"], store=tmp_path / "s.sqlite", costs=False, progress=progress, seeds=2,
        rates=(1.0, 1e35), **{key: value for key, value in FAST.items() if key != "lr"},
    )  # fmt: skip
    assert [entry.method for entry in found.entries] == ["full", "bitfit"], "the rate that trains is taken"
    assert all(entry.lr < 1 for entry in found.entries)

    def diverge(recipe: Recipe, train: Callable[[], Any]) -> Any:
        outcome, applied = train()
        # a score from before it diverged that beats every other must not crown it
        return (replace(outcome, status="diverged", score=1.0) if recipe.method == "bitfit" else outcome), applied

    with pytest.MonkeyPatch.context() as patch:
        changed_fit(patch, diverge)
        found = compare(MODEL, blobs(), ["full", "bitfit"], store=tmp_path / "t.sqlite", progress=progress, **FAST)
        assert [entry.method for entry in found.entries] == ["full"]
        assert [
            note for note in found.definitions["notes"] if note.startswith("left out: every trial of bitfit diverged")
        ]
        with pytest.raises(RunFailed, match=r"every trial of bitfit diverged.*learning rate 0.01.*--lr 0.001"):
            compare(MODEL, blobs(), ["bitfit"], store=tmp_path / "t.sqlite", **FAST)


def test_low_data_whose_trials_all_diverge_is_a_failed_run(tmp_path: Path) -> None:
    task = idx_folder(tmp_path / "data")
    with pytest.raises(RunFailed, match=r"no method could be trained: every trial of full diverged.*bitfit"):
        low_data(MODEL, task, ["full", "bitfit"], (60,), store=tmp_path / "s.sqlite", **{**FAST, "lr": 1e30})


def test_a_series_keeps_the_models_that_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = idx_folder(tmp_path / "data")

    def diverge(recipe: Recipe, train: Callable[[], Any]) -> Any:
        outcome, applied = train()
        return (replace(outcome, status="diverged") if recipe.model == "mlp:16-8-3" else outcome), applied

    changed_fit(monkeypatch, diverge)
    options = {**OPTIONS, "store": tmp_path / "s.sqlite", "budget": 2}
    found = trajectory(["mlp:16-8-3", MODEL], [task], target="own", **options)
    assert [cell.status == "failed" for cell in found.cells] == [True, False]
    assert "the baseline, full, diverged" in found.cells[0].error
    with pytest.raises(RunFailed, match="none of the 2 models could be measured"):
        trajectory(["mlp:16-8-3", "mlp:16-8-3"], [task], target="own", **options)
