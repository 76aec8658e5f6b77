"""The interval holds what it says: a small seeded part of benchmarks/search.py, whose full figures are in benchmarks/search.json."""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("search", "search_worlds"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("search")
    for name in ("search", "search_worlds"):
        sys.modules.pop(name, None)


def test_every_world_crosses_its_threshold_at_its_d90(simulator: Any) -> None:
    for number in range(2 * len(simulator.SHAPES)):
        world = simulator.World(number, 0.01)
        assert world.mean(world.d90) == pytest.approx(world.level, abs=1e-6)
        assert all(world.mean(world.d90 * math.exp(-0.1 * k)) < world.level for k in range(1, 80))


def test_a_row_holds_its_truth_or_not(simulator: Any) -> None:
    row = {"low": 10, "high": 20, "truth": 15}
    assert simulator.holds(row)
    assert not simulator.holds({**row, "truth": 21})
    assert simulator.holds({**row, "high": None, "truth": 21})
    assert not simulator.holds({**row, "high": None, "truth": 9})
    assert simulator.holds({"low": None, "high": 64, "truth": 3})


def test_pages_quote_the_coverage_and_the_width_that_were_found() -> None:
    found = json.loads((BENCHMARKS / "search.json").read_text())
    means, narrow = (
        " ".join((BENCHMARKS.parent / "docs" / kind / "interval.md").read_text().split())
        for kind in ("explanation", "how-to")
    )
    five, seven, twelve = (f"{found[f'budget {budget}']['ratio of closed ends']:.1f}" for budget in (5, 7, 12))
    assert f"ratio is {five} at a budget of 5, {seven} at 7 and {twelve} at 12" in narrow
    held = [f"{100 * found[part]['holds']:.1f} %" for part in ("all", "noise 0.5", "noise 2")]
    assert f"held the true d90 in {held[0]}: {held[1]} at half a point of noise, {held[2]} at two points" in means
    assert f"{found['all']['searches']:,} simulated searches" in means


@pytest.mark.slow
def test_coverage_and_cost_in_simulated_worlds(simulator: Any) -> None:
    """54 searches, two for each cell of noise, start and budget: three standard errors below 90 % at most."""
    cells = range(len(simulator.CELLS))
    rows = [simulator.run((cell, number * len(cells) + cell, False)) for number in range(2) for cell in cells]
    share = statistics.fmean(simulator.holds(row) for row in rows)
    assert share >= 0.9 - 3 * (0.9 * 0.1 / len(rows)) ** 0.5
    budgets = [simulator.CELLS[row["cell"]][2] for row in rows]
    assert all(row["cost"] <= budget + 0.5 for row, budget in zip(rows, budgets, strict=True))
    closed = [row["high"] / row["low"] for row in rows if row["low"] and row["high"]]
    assert statistics.median(closed) < 4
    assert statistics.fmean(row["decision"] for row in rows) < 0.3
