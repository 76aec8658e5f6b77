"""What decides a measurement's key: the question that was asked, as it was asked before, and what came later where it differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from d90.options import SearchOptions, TaskOptions, TrainingOptions
from d90.studies.measurement_setting import Asked, Setting, kept_of, prepare
from d90.trials.options import RunOptions
from d90.trials.store import digest
from tests.reference.blobs import blobs


def setting(tmp_path: Path, lr: float | str = 0.01, **search: Any) -> Setting:
    asked = Asked.of(SearchOptions(**search), TrainingOptions(lr=lr, epochs=2), TaskOptions())
    return prepare("mlp:16-32-3", blobs(), "full", asked, RunOptions(store=tmp_path / "s.sqlite"))


def test_the_key_of_a_question_of_before_is_what_it_was(tmp_path: Path) -> None:
    found = setting(tmp_path)
    recipe = kept_of(found.recipe) | {"lr": 0.01}
    parts = ["full", "mlp:16-32-3", found.recipe.task, "paper", 0.9, "full", 2, False, recipe, 0]
    assert found.key == digest([str(found.spec), *parts[1:]])
    within = setting(tmp_path, rule="margin", within=1.0)
    assert within.key == digest([str(within.spec), *parts[1:3], "margin", *parts[4:], 1.0])


@pytest.mark.parametrize("own", [{"baseline_lr": 0.1}, {"baseline_lr": "auto"}, {"baseline_epochs": 4}])
def test_a_baselines_own_rate_and_epochs_are_part_of_the_question(tmp_path: Path, own: dict[str, Any]) -> None:
    assert setting(tmp_path, **own).key != setting(tmp_path).key
    assert setting(tmp_path, **own).key == setting(tmp_path, **own).key


@pytest.mark.parametrize("same", [{"baseline_lr": "default"}, {"baseline_epochs": 2}, {"budget": 12}, {"dims": (40,)}])
def test_what_is_as_it_is_by_default_changes_no_key(tmp_path: Path, same: dict[str, Any]) -> None:
    assert setting(tmp_path, **same).key == setting(tmp_path).key


def test_rates_that_are_found_have_a_baseline_whose_rate_is_found(tmp_path: Path) -> None:
    found = setting(tmp_path, lr="auto")
    assert (found.asked.lr, found.asked.baseline_lr) == ("auto", "auto")
    assert setting(tmp_path, lr="auto", baseline_lr="auto").key == found.key
    assert setting(tmp_path, lr="usual").key == found.key
    assert setting(tmp_path, lr="auto", baseline_lr="default").key != found.key
