"""Precision "auto": a timed step decides, once for all trials, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.models import loading as models
from d90.tasks import load
from d90.training import precision as module
from d90.training.data import Data
from d90.training.precision import precision_of, step_seconds
from d90.training.recipe import Recipe
from d90.trials.store import Store
from tests.reference.tiny import tiny_model, tiny_task


@pytest.fixture
def data(tmp_path: Path) -> Data:
    model = models.load(str(tiny_model(tmp_path / "base")), 2, max_length=8)
    return Data(model, load(str(tiny_task(tmp_path / "data"))), timed=True)


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bf16_is_fast", lambda device: True)


def timed(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: Any) -> list[str]:
    asked: list[str] = []

    def step(recipe: Recipe, data: Data, precision: str) -> float:
        asked.append(precision)
        if isinstance(bf16, Exception) and precision == "bf16":
            raise bf16
        return fp32 if precision == "fp32" else bf16

    monkeypatch.setattr(module, "step_seconds", step)
    return asked


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(
    ("fp32", "fast", "chosen", "words"),
    [
        (3.0, 1.0, "bf16", "a step takes 1 s in bf16, 3 s in fp32"),
        (3.0, 4.5, "fp32", "a step takes 4.5 s in bf16, 3 s in fp32"),
        (3.0, 2.9, "fp32", "a step takes 2.9 s in bf16"),
        (3.0, float("inf"), "fp32", "its loss is not finite in bf16"),
        (3.0, RuntimeError("not implemented for\n'BFloat16'"), "fp32", "bf16 fails in this model"),
        (0.004, 0.001, "fp32", ""),
    ],
)
def test_a_timed_step_decides_once(
    fp32: float, fast: Any, chosen: str, words: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed(monkeypatch, fp32, fast)
    recipe = Recipe(data.model.name, data.task.name)
    assert precision_of(recipe, data) == chosen
    assert words in data.precision_note
    assert "\n" not in data.precision_note
    count = len(asked)
    assert precision_of(recipe, data) == precision_of(recipe, data.for_model(data.model)) == chosen
    assert len(asked) == count
    assert precision_of(Recipe("m", "t", precision="bf16"), data) == "bf16"


@pytest.mark.parametrize("method", ["full", "lora:r=2", "full@d=20"])
def test_timing_a_step_leaves_no_trace(method: str, data: Data) -> None:
    recipe = Recipe(data.model.name, data.task.name, batch_size=8)
    applied = d90.methods.apply(d90.methods.parse(method), data.model.module)
    before = [p.detach().clone() for p in applied.trained.parameters()]
    state, modes = torch.get_rng_state(), [m.training for m in data.model.module.modules()]
    assert 0 < step_seconds(recipe, data, "fp32") < 60
    assert 0 < step_seconds(recipe, data, "bf16") < 60
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in data.model.module.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(before, applied.trained.parameters(), strict=True))
    assert all(p.grad is None for p in (*applied.trained.parameters(), *data.model.module.parameters()))


@pytest.mark.usefixtures("bf16")
def test_the_choice_is_stored_and_holds_for_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, task = str(tiny_model(tmp_path / "base")), str(tiny_task(tmp_path / "data"))
    options: dict[str, Any] = {"epochs": 1, "batch_size": 8, "evaluations": 1, "max_length": 8, "seeds": 1}
    options |= {"store": tmp_path / "d90.sqlite", "baseline_lr": 1e-3, "lr": 5e-3, "budget": 3.0, "rule": "gain"}
    timed(monkeypatch, 3.0, 1.0)
    d90.measure(base, task, **options)
    first = len(Store(tmp_path / "d90.sqlite").trials())
    asked = timed(monkeypatch, 1.0, 9.0)  # another day this machine is slow in bf16
    d90.measure(base, task, **{**options, "budget": 5.0}, dims=[7])
    results = [row.result for row in Store(tmp_path / "d90.sqlite").trials()]
    assert len(results) > first > 0
    assert {result.precision for result in results} == {"bf16"}
    assert asked == []
