"""The search for a rate, on curves whose best rate is known, and on a small task."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

import d90
from d90.errors import InputError
from d90.options import parse_rate
from d90.training.rates import Ladder, find_rate
from d90.training.recipe import Recipe
from d90.training.result import Evaluation, TrialResult
from tests.reference.blobs import FAST, Notes, blobs


class World:
    """Losses that are a parabola of ln rate; the best rate of a reading lies `bias` steps of the ladder beside that of whole runs."""

    def __init__(self, best: float, bias: float = 0.0, steps: int = 400, breaks: float = math.inf) -> None:
        self.best, self.bias, self.steps, self.breaks = best, bias, steps, breaks
        self.made: list[Recipe] = []

    def __call__(self, recipes: Sequence[Recipe]) -> list[TrialResult]:
        self.made += recipes
        return [self.result(recipe) for recipe in recipes]

    def result(self, recipe: Recipe) -> TrialResult:
        off = math.log(recipe.lr / self.best) / math.log(3) - (self.bias if recipe.until < 1 else 0)
        score = 0.9 - 0.015 * off**2
        status = "diverged" if recipe.lr > self.breaks else "read" if recipe.until < 1 else "finished"
        curve = (Evaluation(1, score, 1 - score),)
        return TrialResult(score, status, 0.5, curve, round(self.steps * recipe.until))


@pytest.mark.parametrize("best", [1e-6, 1e-4, 3e-4, 9e-3, 8e-2])
@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_the_best_rate_is_found_from_any_guess(best: float, bias: float) -> None:
    world = World(best, bias)
    found = find_rate(world, Recipe("m", "t"), 1e-4, world.steps)
    assert 1 / 2 < found.lr / best < 2, "the nearest rung"
    assert found.spent == pytest.approx(sum(recipe.until for recipe in world.made))
    assert found.spent <= 4 + 9 / 8
    assert {recipe.until for recipe in world.made} == {0.125, 1.0}


def test_whole_runs_decide_between_the_two_best_readings() -> None:
    world = World(1e-4, bias=0.6)  # readings prefer 3e-4
    found = find_rate(world, Recipe("m", "t"), 1e-4, world.steps)
    assert (found.read, found.lr) == (3e-4, 1e-4)
    assert [trial.lr for trial in found.whole] == [1e-4, 3e-4]
    assert "learning rate 0.0001 for full" in found.describe("accuracy")
    json.dumps(asdict(found), allow_nan=False)


def test_rates_that_diverge_lead_down() -> None:
    world = World(1e-6, breaks=2e-6)
    found = find_rate(world, Recipe("m", "t"), 1e-3, world.steps, Ladder(max_readings=12))
    assert found.lr == 1.4e-6
    json.dumps(asdict(found), allow_nan=False)


def test_short_runs_are_run_whole() -> None:
    world = World(1e-4, steps=20)
    found = find_rate(world, Recipe("m", "t"), 1e-4, 20)
    assert {recipe.until for recipe in world.made} == {1.0}
    assert (found.lr, found.read) == (1e-4, 1e-4)


def test_a_loss_and_an_accuracy_are_searched_alike() -> None:
    class Losses(World):
        def result(self, recipe: Recipe) -> TrialResult:
            found = super().result(recipe)
            return replace(found, score=found.score - 3.0, zero_score=-4.0)

    assert (
        find_rate(Losses(9e-3), Recipe("m", "t"), 1e-4, 400).lr
        == find_rate(World(9e-3), Recipe("m", "t"), 1e-4, 400).lr
        == 8.1e-3
    )


@pytest.mark.parametrize(
    ("given", "meant"), [("auto", "auto"), ("default", None), (None, None), ("1e-3", 1e-3), (0.5, 0.5)]
)
def test_a_rate_is_a_number_auto_or_default(given: Any, meant: Any) -> None:
    assert parse_rate(given) == meant


@pytest.mark.parametrize("given", ["fast", "-1", "nan", "inf", "0"])
def test_other_rates_are_refused(given: str) -> None:
    with pytest.raises(InputError, match="positive number such as 1e-3, auto or default"):
        parse_rate(given)


def test_train_finds_its_rate() -> None:
    told = Notes()
    options = {**FAST, "epochs": 2}
    at_default = d90.train("mlp:16-32-3", blobs(noise=2.0), "full@d=20", **{**options, "lr": 1e-5})
    at_default.release()
    found = d90.train("mlp:16-32-3", blobs(noise=2.0), "full@d=20", progress=told, **{**options, "lr": "auto"})
    assert found.recipe.lr is not None
    assert found.score > at_default.score
    assert any(note.startswith(f"learning rate {found.recipe.lr:g} for full@d=20") for note in told.notes)
