"""The search, against worlds whose d90 is known: it knows no model, so neither does this file.

Coverage, error and cost over many searches are in benchmarks/search.py; a small seeded version of it is here.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from d90.errors import InputError
from d90.search import Asked, SearchProblem, Trial, failed, round_d, search
from d90.search.posterior import fitted, grid
from d90.search.pruning import hopeless
from d90.search.rules import Goal

HALF = Goal(0.5, 0.0)


def problem(**changes: Any) -> SearchProblem:
    given: dict[str, Any] = {"goal": HALF, "full": 0.0, "low": 1, "high": 1_000_000, "scale": 0.4, "noise": 0.004}
    return SearchProblem(**{**given, **changes})


class World:
    """A score that grows by 10 points with each factor e, with noise of its own for each pair of seeds."""

    def __init__(self, d90: float, noise: float = 0.004, stops: bool = True) -> None:
        self.d90, self.noise, self.stops = d90, noise, stops
        self.asked: list[Asked] = []

    def __call__(self, asked: Asked) -> Trial:
        self.asked.append(asked)
        if asked.d is None:
            return Trial(None, asked.p, asked.t, 0.9, 0.9)
        draw = numpy.random.default_rng([asked.d, asked.p, asked.t])
        score = 0.5 + 0.2 * math.tanh(math.log(asked.d / self.d90) / 2) + self.noise * draw.standard_normal()
        if self.stops and not asked.whole and score >= 0.5:
            return Trial(asked.d, asked.p, asked.t, 0.5, math.inf, 0.6)
        return Trial(asked.d, asked.p, asked.t, score, score)


@pytest.mark.parametrize("d90", [7, 40, 257, 750, 12_345, 99_000])
@pytest.mark.parametrize("start", [64, 16_384])
def test_finds_the_crossing_with_an_interval_and_confirms_it(d90: int, start: int) -> None:
    world = World(d90)
    found = search(world, problem(start=start))
    assert found.status == "found"
    low, high = found.interval
    assert low <= found.d90 <= high
    assert low / 1.1 <= d90 <= high * 1.1
    assert found.d90 == pytest.approx(d90, rel=0.25)
    assert found.spent <= 12.5
    assert len(world.asked) == len({(a.d, a.p, a.t) for a in world.asked}), "no trial is made twice"
    assert found.confirmed
    at = [trial for trial in found.trials if trial.d == found.d90]
    assert len({trial.p for trial in at}) >= 2
    assert len({trial.p for trial in at}) < len(at), "one P with two seeds of training"


def test_killed_at_any_moment_it_goes_on_as_it_would_have() -> None:
    """The choice depends on the set of finished trials alone, in whatever order the store gives them."""
    whole = World(750, noise=0.01)
    found = search(whole, problem())
    for cut in range(1, len(whole.asked)):
        before = list(found.trials[:cut])
        rest = World(750, noise=0.01)
        again = search(rest, problem(), own=before[::-1])
        assert rest.asked == whole.asked[cut:]
        assert (again.d90, again.interval) == (found.d90, found.interval)
    assert search(lambda asked: pytest.fail("nothing is left"), problem(), own=found.trials).d90 == found.d90


def test_trials_of_others_are_learned_from_and_cost_nothing() -> None:
    first = search(World(750), problem())
    world = World(750)
    second = search(world, problem(), known=first.trials)
    assert second.spent == 0
    assert not world.asked
    assert second.d90 == first.d90


def test_the_bracket_goes_on_from_a_trial_that_was_given_up() -> None:
    """Its upper end is the threshold, and not below it; taken for unknown, the same d would be tried until the budget is spent."""

    class Hasty(World):
        def __call__(self, asked: Asked) -> Trial:
            found = super().__call__(asked)
            below = found.exact and found.low < 0.5 and not asked.whole
            return Trial(found.d, found.p, found.t, found.low - 0.02, 0.5, 0.5) if below else found

    world = Hasty(60_000)
    found = search(world, problem(start=64))
    tried = [asked.d for asked in world.asked if asked.why.startswith("bracket")]
    assert tried == sorted(set(tried)), "upwards, each d once"
    assert found.status == "found"
    assert found.d90 == pytest.approx(60_000, rel=0.5)


def test_an_unreachable_threshold_is_named() -> None:
    world = World(1e12)
    found = search(world, problem(high=4000))
    assert (found.status, found.d90, found.interval) == ("unreachable", None, (4000, None))
    assert sum(asked.d == 4000 for asked in world.asked) == 2, "the highest d is tried with two seeds"


def test_training_that_failed_is_told() -> None:
    """Scores that fall by more than half of the gain as d rises are no curve."""
    world, progress = World(750), list[str]()

    def evaluate(asked: Asked) -> Trial:
        trial = world(asked)
        return replace(trial, low=0.2, high=0.2) if asked.d and asked.d > 2000 else trial

    search(evaluate, problem(first=(1000, 4000)), progress=progress.append)
    (warning, *_) = [line for line in progress if "its training failed" in line]
    assert warning.startswith("d = 4,000 fell far below d = 1,000")

    scores = {d: Trial(d, 0, 0, score, score) for d, score in ((10, 0.5), (100, 0.7), (1000, 0.62), (5000, 0.55))}
    trials = [Trial(None, 0, 0, 0.9, 0.9), *scores.values()]
    assert failed(scores[5000], trials, 0.28, 0.01) is scores[100]
    assert failed(scores[1000], trials, 0.28, 0.01) is None
    assert failed(scores[5000], trials, 0.28, 0.02) is None, "noise may explain it"
    assert all(failed(trial, trials, 0.28, 0.01) is None for trial in (trials[0], scores[10], scores[100]))


def test_a_threshold_that_the_lowest_d_reaches_is_named() -> None:
    found = search(World(1e-3), problem(low=7, high=1000))
    assert (found.status, found.d90) == ("floor", 7)


def test_a_budget_spent_before_any_d_failed_leaves_an_upper_bound() -> None:
    world = World(1e-3)
    found = search(world, problem(low=1, high=10_000, start=5000, budget=2))
    assert (found.status, found.d90) == ("floor", min(asked.d for asked in world.asked if asked.d))
    assert found.d90 > 1


def test_values_asked_for_come_first() -> None:
    world = World(300)
    found = search(world, problem(first=(100, 1000), high=10_000))
    assert [asked.d for asked in world.asked[:2]] == [100, 1000]
    assert {100, 1000} <= {trial.d for trial in found.trials}


def test_the_budget_is_kept() -> None:
    world = World(300, noise=0.05)
    found = search(world, problem(budget=6, resolution=1.0, noise=0.05))
    assert found.spent <= 6.5
    tight = search(World(300, noise=0.05), problem(budget=20, resolution=1.0, noise=0.05))
    ratio, before = ((one.interval[1] or math.inf) / (one.interval[0] or 1) for one in (tight, found))  # None: open
    assert ratio < before


@pytest.mark.parametrize("start", [260, 1024])
def test_the_interval_ends_near_what_was_tried(start: int) -> None:
    world = World(300, noise=0.02)
    found = search(world, problem(start=start, budget=12, resolution=1.02, noise=0.02))
    tried = [asked.d for asked in world.asked if asked.d is not None]
    low, high = found.interval
    assert low is not None
    assert low >= min(tried) / 4
    assert high is not None
    assert high <= max(tried) * 4
    assert low <= 300 <= high


def test_full_fine_tuning_is_repeated_where_its_error_decides() -> None:
    class Scattered(World):
        def __call__(self, asked: Asked) -> Trial:
            if asked.d is None:
                self.asked.append(asked)
                score = 0.55 + 0.03 * numpy.random.default_rng(asked.t).standard_normal()
                return Trial(None, asked.p, asked.t, score, score)
            return super().__call__(asked)

    world = Scattered(300, noise=0.02)
    found = search(world, problem(goal=Goal(0.0, 0.9), full=None, noise=0.02, resolution=1.02, budget=20))
    full = [asked for asked in world.asked if asked.d is None]
    assert len(full) >= 2
    assert len({asked.t for asked in full}) == len(full)
    assert found.threshold == pytest.approx(0.9 * statistics.fmean(t.low for t in found.trials if t.d is None))


@pytest.mark.parametrize(
    ("changes", "words"), [({"low": 5, "high": 4}, "range"), ({"high": 9, "first": (10,)}, "outside the range")]
)
def test_impossible_ranges_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        search(World(3), problem(**changes))


@pytest.mark.parametrize(
    ("d", "expected"), [(0.3, 1), (9.4, 9), (57.2, 57), (123, 120), (1000, 1000), (4_567, 4_600), (99_999, 100_000)]
)
def test_round_d_keeps_two_digits(d: float, expected: int) -> None:
    assert round_d(d) == expected


def test_the_grid_has_steps_of_a_tenth() -> None:
    values = grid(10, 100_000)
    assert (values[0], values[-1]) == (10, 100_000)
    assert all(1.04 < b / a < 1.16 for a, b in itertools.pairwise(values))
    assert all(round_d(d) == d for d in values)


# --- the fit -----------------------------------------------------------------------------------------------------------


def line(d: int, seed: int, score: float | None = None) -> Trial:
    exact = 0.5 + 0.1 * math.log(d / 300) if score is None else score
    return Trial(d, seed, seed, exact, exact)


def test_samples_are_monotone_and_follow_exact_scores() -> None:
    fit = fitted([line(d, i) for i, d in enumerate((50, 100, 200, 400, 800))], HALF, 1, 10**6, 0.4, 0.002)
    assert (numpy.diff(fit.paths, axis=1) >= -1e-12).all()
    assert fit.quantile(0.5) == pytest.approx(300, rel=0.05)
    assert fit.passes(100) < 0.05 < 0.95 < fit.passes(800)
    mean, low, high = fit.band(0.9)
    assert (low <= mean).all() and (mean <= high).all()  # noqa: PT018


def test_a_stopped_trial_is_a_bound() -> None:
    """One that passed moves the crossing down, one that was given up moves it up; neither is taken for a score."""
    trials = [line(50, 0), line(3000, 1)]
    middle = fitted(trials, HALF, 1, 10**6, 0.4, 0.01).quantile(0.5)
    passed = fitted([*trials, Trial(150, 2, 2, 0.5, math.inf)], HALF, 1, 10**6, 0.4, 0.01)
    given_up = fitted([*trials, Trial(700, 2, 2, 0.1, 0.5)], HALF, 1, 10**6, 0.4, 0.01)
    assert passed.quantile(0.5) < 0.85 * middle
    assert given_up.quantile(0.5) > 1.15 * middle


def test_trials_of_one_seed_say_less_than_trials_of_several() -> None:
    def width(seeds: list[int]) -> float:
        trials = [line(d, seed) for d, seed in zip((100, 200, 250, 350, 450, 900), seeds, strict=True)]
        fit = fitted(trials, HALF, 1, 10**6, 0.4, 0.02)
        return math.log(fit.quantile(0.95) / fit.quantile(0.05))

    assert width([0] * 6) > 1.2 * width([0, 1, 2, 3, 4, 5])


def test_the_order_of_trials_changes_no_bit() -> None:
    trials = [line(d, i) for i, d in enumerate((50, 100, 400, 400))] + [Trial(900, 9, 9, 0.5, math.inf)]
    one, other = (fitted(some, HALF, 1, 10**6, 0.4, 0.01) for some in (trials, trials[::-1]))
    assert numpy.array_equal(one.paths, other.paths)
    assert numpy.array_equal(one.crossing, other.crossing)


# --- giving up ---------------------------------------------------------------------------------------------------------

EARLIER = [[0.5, 0.6, 0.7, 0.72, 0.73, 0.74], [0.5, 0.62, 0.68, 0.7, 0.72, 0.72]]


def test_a_trial_is_given_up_only_far_below() -> None:
    assert hopeless([0.4, 0.5, 0.55], EARLIER, 6, 0.75, 0.01)
    assert not hopeless([0.4, 0.5, 0.69], EARLIER, 6, 0.75, 0.01), "it may rise as the others did"
    assert not hopeless([0.4, 0.5], EARLIER, 6, 0.75, 0.01), "not before half of the evaluations"
    assert not hopeless([0.4, 0.5, 0.55], EARLIER[:1], 6, 0.75, 0.01), "not by one trial"
    assert not hopeless([0.4, 0.7, 0.5], EARLIER, 6, 0.75, 0.01), "the best so far counts"


# --- coverage ----------------------------------------------------------------------------------------------------------


def simulator() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "search.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_the_search", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_coverage_and_cost_in_simulated_worlds() -> None:
    """30 searches of benchmarks/search.py (two whole rounds of its shapes and noises); the full number is there."""
    made = simulator()
    rows = [made.ours(made.World(number)) for number in range(30)]
    share = statistics.fmean(row["inside"] for row in rows)
    assert share >= 0.9 - 2 * (0.9 * 0.1 / 30) ** 0.5
    assert statistics.median(row["cost"] for row in rows) <= 12
    assert statistics.median(row["error"] for row in rows) <= 0.15
    single = [made.bisection(made.World(number), 1) for number in range(30)]
    assert share > statistics.fmean(row["inside"] for row in single) + 0.3, "a bracket of single trials is no interval"
