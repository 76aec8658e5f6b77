"""The search, against evaluators whose d90 is known: it knows no model, so neither does this file."""

from __future__ import annotations

import math

import pytest

from d90.errors import InputError
from d90.search import round_d, search


def step_at(true_d: int, calls: list[int] | None = None):
    """A score that jumps over 0.5 at d = true_d."""

    def evaluate(d: int, seed: int) -> float:
        if calls is not None:
            calls.append(d)
        return 0.5 + 0.1 * math.tanh(math.log(d / (true_d - 0.5)))

    return evaluate


@pytest.mark.parametrize("true_d", [3, 7, 40, 257, 750, 12_345, 99_000])
@pytest.mark.parametrize("start", [10, 256, 5_000])
def test_finds_the_crossing_within_the_resolution(true_d: int, start: int) -> None:
    calls: list[int] = []
    found = search(step_at(true_d, calls), 0.5, low=1, high=100_000, start=start, resolution=1.1)
    assert found.status == "found"
    bad, good = found.interval
    assert bad < true_d <= good == found.d90
    assert good <= bad * 1.1 or round_d(math.sqrt(good * bad)) in (bad, good)
    assert len(calls) == len(set(calls)), "no d is evaluated twice"
    assert len(calls) <= 14


def test_an_unreachable_threshold_is_named() -> None:
    found = search(lambda d, seed: 0.3, 0.5, low=2, high=1000)
    assert (found.status, found.d90, found.interval) == ("unreachable", None, (1000, None))


def test_a_threshold_that_the_lowest_d_reaches_is_named() -> None:
    found = search(lambda d, seed: 0.9, 0.5, low=7, high=1000)
    assert (found.status, found.d90) == ("floor", 7)


def test_most_seeds_decide_and_no_more_than_needed_are_run() -> None:
    calls: list[tuple[int, int]] = []

    def evaluate(d: int, seed: int) -> float:
        calls.append((d, seed))
        return 0.9 if d >= 100 and seed != 0 else 0.1  # seed 0 always fails

    found = search(evaluate, 0.5, low=1, high=1000, start=100, seeds=(0, 1, 2))
    assert found.d90 == 100
    per_d = {d: sum(1 for other, _ in calls if other == d) for d, _ in calls}
    assert per_d[100] == 3
    assert all(count == 2 for d, count in per_d.items() if d < 100), "two failures of three decide"


def test_values_asked_for_come_first_and_narrow_the_bracket() -> None:
    calls: list[int] = []
    found = search(step_at(300, calls), 0.5, low=1, high=10_000, first=(100, 1000), resolution=1.2)
    assert calls[:2] == [100, 1000]
    assert all(100 < d < 1000 for d in calls[2:])
    assert found.interval[0] < 300 <= found.d90


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"low": 5, "high": 4}, "range"), ({"low": 1, "high": 9, "first": (10,)}, "outside the range")],
)
def test_impossible_ranges_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        search(lambda d, seed: 1.0, 0.5, **arguments)


@pytest.mark.parametrize(
    ("d", "expected"), [(0.3, 1), (9.4, 9), (57.2, 57), (123, 120), (4_567, 4_600), (99_999, 100_000)]
)
def test_round_d_keeps_two_digits(d: float, expected: int) -> None:
    assert round_d(d) == expected
