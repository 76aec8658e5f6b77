"""Results: what is stored is read back as the same dataclass, of earlier versions too; what is no result is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from d90.errors import StoreError
from d90.results.compare import Comparison
from d90.results.cost import Cost
from d90.results.generalization import GeneralizationRow
from d90.results.latency import Latency, LatencyRow
from d90.results.low_data import LowData
from d90.results.measure import Measurement, Point
from d90.results.result import Result, stored_results
from d90.results.series import Series
from d90.results.weight_change import Analysis
from d90.search.variance import Shares
from d90.trials.store import Store
from tests.reference.results import (
    made_analysis,
    made_cell,
    made_comparison,
    made_likeness,
    made_low_data,
    made_row,
    made_series,
)

STORED = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.sqlite"))
KINDS: dict[str, type[Result]] = {
    "measure": Measurement, "compare": Comparison, "trajectory": Series, "family": Series, "lowdata": LowData,
}  # fmt: skip
MEASURED = Measurement(
    "m", "t", "full@structure=did", "accuracy", "paper", 0.9, "found", 20, (10, None), 500, 0, 0.75, (0.75,), "full", 0.5, 0.5, 0.675,
    (Point(20, 0, 0.6, True, "passed", 1.0, 3, lower=-0.1),), {"lr": None}, {"notes": ["a"]}, 1.0,
    variance=Shares(0.4, (0.1, 0.8), 0.02, 12), band=((1.0, 0.5, 0.4, 0.6),), failed=((5, 0, 1),),
)  # fmt: skip
ROW = LatencyRow("full", "full", True, 1, 8, 2.5, 0.01, -0.01, 0.02, 7, 0.005)
COMPARED = made_comparison(full=[0.5, 0.6])
RESULTS = [
    MEASURED,
    replace(COMPARED, entries=(replace(COMPARED.entries[0], cost=Cost(1.0, 1.0, 5, 0.1, 1.0), low=0.4, high=0.7),)),
    made_series(made_cell(1, 30), made_cell(2, None, "failed", error="no"), givers={"data/t": "run/step-1"}),
    made_low_data([8, 80], COMPARED, COMPARED),
    Latency("m", 100, "fp32", (ROW,), {"threads": 2}),
    GeneralizationRow("m", "t", "full", "paper", "accuracy", 20, (10, 40), None, note="not trained"),
    made_analysis([made_row("q", (1, 2.0))], likeness=[made_likeness("q", [[0.2]], [[0.1]])]),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_is_read_back_from_json_as_it_was(result: Result) -> None:
    kind = type(result)
    assert kind.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert kind.from_dict({**result.to_dict(), "of another version": 1}) == result


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_every_published_study_is_read_and_keeps_every_number(path: Path) -> None:
    store = Store(path, write=False)
    for name, kind in KINDS.items():
        for body, result in zip(store.studies(name), stored_results(store, kind, name), strict=True):
            again = json.loads(json.dumps(result.to_dict(), sort_keys=True))
            known = {key: value for key, value in body.items() if key in again}
            assert set(body) - set(known) <= {"confirmed"}, "what a version before today's told is all that is left out"
            assert _without_new(again, known) == known
    store.close()


def _without_new(now: object, before: object) -> object:
    """`now` less the fields that `before` lacks."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {key: _without_new(now[key], value) for key, value in before.items()}
    if isinstance(now, list) and isinstance(before, list):
        return [_without_new(one, other) for one, other in zip(now, before, strict=True)]
    return now


def test_a_study_of_before_says_what_it_knew() -> None:
    """A bracket had no probability and its trials one seed; then intervals had, and no end was open."""
    body = MEASURED.to_dict()
    for key in ("sure", "open_ends"):
        del body[key]
    interval = Measurement.from_dict(body)
    assert (interval.coverage, interval.open_ends) == (0.9, False)
    del body["coverage"], body["curve"][0]["p_seed"]
    bracket = Measurement.from_dict(body)
    assert (bracket.coverage, bracket.open_ends, bracket.curve[0].p_seed) == (None, False, 0)
    assert str(bracket).startswith("d90 = 20, bracket from 10")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"d90": "20"}, TypeError, "Measurement.d90 is '20', expected int"),
        ({"d90": True}, TypeError, "Measurement.d90 is True"),
        ({"interval": [1]}, TypeError, "Measurement.interval holds 1 values, expected 2"),
        ({"curve": [3]}, TypeError, "Measurement.curve is 3, expected the fields of Point"),
        ({"curve": {"d": 3}}, TypeError, "Measurement.curve is {'d': 3}"),
        ({"baseline": None}, TypeError, "Measurement.baseline is None, expected float"),
        ({"curve": [{"d": 3, "seed": 0}]}, KeyError, "Measurement.curve.score"),
        ({"recipe": []}, TypeError, "Measurement.recipe is"),
    ],
)
def test_what_is_no_result_is_refused_by_field(
    changes: dict[str, object], error: type[Exception], words: str, tmp_path: Path
) -> None:
    body = {**MEASURED.to_dict(), **changes}
    with pytest.raises(error) as raised:
        Measurement.from_dict(body)
    assert words in str(raised.value)
    store = Store(tmp_path / "s.sqlite")
    store.put_study("k", "measure", body)
    with pytest.raises(StoreError, match="is damaged"):
        stored_results(store, Measurement, "measure")
    store.close()


def test_an_analysis_on_file_is_read_by_recipes_with_its_amplification(tmp_path: Path) -> None:
    """Its factor is computed, not stored: a recipe that read the file's keys ended in a KeyError."""
    from d90.reproduce.figures import KINDS as FIGURES

    kind = FIGURES["analyze"]
    found = Analysis.from_dict(json.loads(json.dumps(made_analysis([made_row("q", (4, 6.0), own=0.5)]).to_dict())))
    factors = {figure.of: figure.value for figure in kind.read(found, {"ranks": "4"})}
    assert (factors["factor"], factors["delta"], factors["own"]) == (6.0, 3.0, 0.5)


@pytest.mark.parametrize(
    ("interval", "spent", "words"),
    [
        ((100, 120), 6.2, ""),
        ((100, 400), 8.6, "the budget ended the search: the same command with --budget 13 goes on from here"),
        ((None, 400), 5.0, "the budget ended the search: the same command with --budget 9 goes on from here"),
    ],
)
def test_a_measurement_that_its_budget_ended_says_how_to_go_on(
    interval: tuple[int | None, int], spent: float, words: str
) -> None:
    found = replace(MEASURED, interval=interval, spent=spent, definitions={"budget": 9.0, "resolution": 1.25})
    assert found.more == words
    assert replace(found, status="trivial").more == ""
