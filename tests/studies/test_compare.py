"""Methods side by side: rates tuned and widened, seeds, resuming, the front, the page, the probe."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from d90 import compare
from d90.analysis.score_interval import combined_half_width, pooled_deviation, wilson_interval
from d90.errors import InputError
from d90.methods import parse
from d90.models.loading import load
from d90.options import TrainingOptions
from d90.report.compare import comparison_page, verdicts, write_comparisons
from d90.results.compare import Comparison, Entry
from d90.studies.compare import front
from d90.studies.cost import probe
from d90.training.loop import Data
from d90.training.recipe import make_recipe
from d90.trials.store import Store
from tests.reference.blobs import Notes, blobs

OPTIONS = {"epochs": 2, "batch_size": 32, "evaluations": 2, "precision": "fp32"}
METHODS = ["full", "bitfit", "full@d=40"]


class Planned(Notes):
    """Keeps what comes next as well."""

    def __init__(self) -> None:
        super().__init__()
        self.planned: list[str] = []

    def search_planned(self, message: str) -> None:
        self.planned.append(message)


def test_how_many_trainings_there_will_be_is_reported_before_the_first(tmp_path: Path) -> None:
    told = Planned()
    store = Store(tmp_path / "s.sqlite")
    compare("mlp:16-32-3", blobs(), ["full", "bitfit"], seeds=2, store=store, progress=told, **OPTIONS)
    (said,) = (note for note in told.notes if "trainings" in note)
    fewest, most = (int(word) for word in said.split(" trainings")[0].split(" to "))
    assert fewest <= len(store.trials()) <= most
    assert "up to 2 further ones where the best lies at the edge" in said
    assert [line for line in told.planned if "round" in line][-1] == "time and memory of a step, round 3 of 3: bitfit"
    alone = Planned()
    compare(
        "mlp:16-32-3", blobs(), ["bitfit"], lr=0.01, costs=False, store=tmp_path / "t.sqlite", progress=alone, **OPTIONS
    )
    assert not any("trainings" in note for note in alone.notes), "a rate that is given is not searched"


def test_every_method_at_its_best_rate_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "s.sqlite")
    found = compare("mlp:16-32-3", blobs(), METHODS, seeds=2, store=store, costs=False, **OPTIONS)
    assert [entry.asked for entry in found.entries] == METHODS
    for entry in found.entries:
        scores = dict(entry.rates)
        assert entry.lr == max(scores, key=lambda lr: (scores[lr], -lr))
        assert entry.validation[0] == scores[entry.lr]
        assert len(entry.validation) == 2
        assert entry.lr not in (min(scores), max(scores)) or len(scores) == 5, "a best rate at the edge widens the grid"
        trained = [t for t in store.trials() if t.recipe.method == entry.method]
        assert {t.recipe.lr for t in trained} == set(scores)
        assert sorted(t.seed for t in trained if t.recipe.lr == entry.lr) == [0, 1]
    sizes = [(entry.trained, entry.stored) for entry in found.entries]
    assert sizes == [(643, 643), (32 + 99, 32 + 99), (40, 40)]
    rows = len(store.trials())
    monkeypatch.setattr(
        sys.modules["d90.trials.job"], "fit", lambda *a, **k: pytest.fail("a stored trial was trained again")
    )
    again = compare("mlp:16-32-3", blobs(), METHODS, seeds=2, store=store, costs=False, **OPTIONS)
    assert again == found
    assert len(store.trials()) == rows
    assert len(store.studies("compare")) == 1
    assert store.studies() == []


def test_the_test_split_is_reported_and_not_chosen_on(tmp_path: Path) -> None:
    task = blobs()
    task = replace(task, test=task.validation)
    found = compare("mlp:16-32-3", task, ["full"], store=tmp_path / "s.sqlite", costs=False, lr=1e-2, **OPTIONS)
    (entry,) = found.entries
    assert found.split == "test"
    assert entry.test == entry.validation == entry.scores, (
        "equal splits score equally, at the best evaluation's weights"
    )
    assert entry.rates == ((1e-2, entry.validation[0]),)
    stored = Store(tmp_path / "s.sqlite").trials()
    assert [t.result.test for t in stored] == list(entry.test)


def entry(stored: int, *scores: float) -> Entry:
    return Entry("full", "full", 1.0, ((1.0, 0.5),), scores, (), 9, 9, 0, stored, 0, "nothing", 1.0)


def test_nothing_that_is_not_above_chance_is_crowned() -> None:
    entries = [entry(10, 0.50), entry(20, 0.55), replace(entry(30, 0.7), low=0.52, high=0.88)]
    assert [e.front for e in front(entries, chance=0.55)] == [False, False, False]
    assert [e.front for e in front(entries, chance=0.51)] == [False, True, True]


def test_the_interval_covers_the_test_split_and_the_seeds(tmp_path: Path) -> None:
    task = blobs()
    one = compare("mlp:16-32-3", task, ["full@d=4"], store=tmp_path / "s.sqlite", costs=False, lr=1e-2, **OPTIONS)
    (first,) = one.entries
    low, high = wilson_interval(first.mean, len(task.splits[one.split]))
    assert first.high - first.low == pytest.approx(high - low, rel=1e-3), "one seed: the examples alone"
    assert (first.low + first.high) / 2 == pytest.approx(first.mean)
    many = compare(
        "mlp:16-32-3",
        task,
        ["full@d=4", "full@d=5"],
        seeds=3,
        store=tmp_path / "s.sqlite",
        costs=False,
        lr=1e-2,
        **OPTIONS,
    )
    groups = [e.scores for e in many.entries]
    deviation, freedom = pooled_deviation(groups)
    assert freedom == 4
    for e in many.entries:
        low, high = wilson_interval(e.mean, len(task.splits[one.split]))
        expected = combined_half_width((high - low) / 2 / 1.959964, deviation, 3, freedom)
        assert (e.high - e.low) / 2 == pytest.approx(expected)


def test_differences_within_the_intervals_are_named() -> None:
    def known(name: str, mean: float, half: float) -> Entry:
        return replace(entry(10, mean), asked=name, low=mean - half, high=mean + half)

    entries = (known("a", 0.80, 0.03), known("b", 0.77, 0.03), known("c", 0.60, 0.03))
    found = Comparison("m", "t", "accuracy", "test", 0.5, 1, entries, {}, {})
    lines = verdicts(found)
    assert [line for line in lines if "told apart from" in line] == ["a: not told apart from b"]
    assert "chance: 0.5000" in lines[0]
    assert "a: not told apart from b" in lines
    assert "not above chance by more than the interval, so of no rank: c" in verdicts(replace(found, chance=0.58))


def test_the_front_is_what_nothing_smaller_beats() -> None:
    entries = [entry(10, 0.5), entry(20, 0.4), entry(20, 0.7, 0.5), entry(30, 0.6), entry(40, 0.9), entry(40, 0.9)]
    assert [e.front for e in front(entries)] == [True, False, True, False, True, True]
    assert entries[2].mean == pytest.approx(0.6)
    assert entries[2].spread == pytest.approx(math.sqrt(0.02))


def test_the_page_and_what_it_escapes(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(InputError, match="no comparison in"):
        write_comparisons(store, tmp_path / "p.html")
    found = compare("mlp:16-32-3", blobs(), METHODS, store=store, lr=1e-2, command="d90 <compare>", **OPTIONS)
    text = write_comparisons(store, tmp_path / "p.html").read_text()
    assert "d90 &lt;compare&gt;" in text
    assert "<compare>" not in text
    for one in found.entries:
        assert f"{one.stored:,}" in text
        assert one.cost is not None
        assert f"{one.cost.step_ratio:.2f}" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    read = Comparison.from_dict(json.loads(json.dumps(found.to_dict())))
    assert read == found
    assert comparison_page([read]) == comparison_page([found])


def test_the_probe_leaves_the_model_alone_and_sees_what_costs() -> None:
    task = blobs()
    model = load("mlp:16-512-512-3", 3)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    specs = [parse("bitfit"), parse("full@d=40")]
    recipe = make_recipe(model, task, specs[0], TrainingOptions(precision="fp32"))
    model.module.train()
    costs = probe(Data(model, task), specs, recipe, rounds=3)
    assert model.module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())
    weights = sum(p.numel() * 4 for p in model.module.parameters())
    biases, space = costs
    assert biases.memory < weights, "no gradient and no Adam state for what does not move"
    assert space.memory >= 0.9 * 512 * 512 * 4, "a gradient of the largest weight, folded and freed"
    assert all(cost.latency_ratio == 1 for cost in costs), "both merge"
    assert all(cost.step > 0 and cost.latency > 0 for cost in costs)


def test_the_step_of_full_costs_one_by_definition() -> None:
    task, model = blobs(), load("mlp:16-32-3", 3)
    recipe = make_recipe(model, task, parse("full"), TrainingOptions(precision="fp32"))
    full, _ = probe(Data(model, task), [parse("full"), parse("bitfit")], recipe, rounds=3)
    assert full.step_ratio == 1.0, "its own time over itself, round for round"


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([], {}, "got no methods"),
        (["full", "full"], {}, "got 'full' twice"),
        (["full", "lora"], {}, "looked for the blocks of a transformer"),
        (["full"], {"rates": (1, 0)}, "expected positive factors"),
        (["full"], {"seeds": 0}, "got seeds=0"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    methods: list[str], options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        compare("mlp:16-32-3", blobs(), methods, store=tmp_path / "s.sqlite", **options)  # type: ignore[arg-type]
    assert not Store(tmp_path / "s.sqlite").trials()
