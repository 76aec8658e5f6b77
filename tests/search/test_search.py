"""The search, against worlds whose d90 is known: it knows no model, so neither does this file.

Coverage, error and cost over many searches are in benchmarks/search.py; a small seeded version of it is in test_coverage.py.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy
import pytest

from d90.errors import InputError
from d90.search import NextTrial, Observation, SearchProblem, nearest_d, next_trial, round_d, search, summarise
from d90.search.pruning import will_fail
from d90.search.rules import Goal

HALF = Goal(0.5, 0.0)


def problem(**changes: Any) -> SearchProblem:
    given: dict[str, Any] = {"goal": HALF, "full": 0.7, "low": 1, "high": 1_000_000, "chance": 0.3, "noise": 0.01}
    return SearchProblem(**{**given, **changes})


class World:
    """A score that goes from 0.3 to 0.7, half of it at d90, with noise of its own for each pair of seeds."""

    def __init__(self, d90: float, noise: float = 0.004, stops: bool = True) -> None:
        self.d90, self.noise, self.stops = d90, noise, stops
        self.asked: list[NextTrial] = []

    def __call__(self, asked: NextTrial) -> Observation:
        self.asked.append(asked)
        seeds = asked.projection_seed, asked.training_seed
        if asked.d is None:
            return Observation(None, *seeds, 0.7, 0.7)
        draw = numpy.random.default_rng([asked.d, *seeds])
        score = 0.5 + 0.2 * math.tanh(math.log(asked.d / self.d90) / 2) + self.noise * draw.standard_normal()
        if self.stops and not asked.whole and score >= 0.5:
            return Observation.of(asked, "passed", score, 0.5, 0.6)
        return Observation(asked.d, *seeds, score, score)


def seen(d: int, score: float, seed: int = 0) -> Observation:
    return Observation(d, seed, seed, score, score)


@pytest.mark.parametrize("d90", [40, 750, 12_345, 99_000])
@pytest.mark.parametrize("start", [64, 16_384])
def test_finds_the_crossing_with_an_interval_that_trials_bound(d90: int, start: int) -> None:
    world = World(d90)
    found = search(world, problem(start=start))
    assert found.status == "found"
    low, high = found.interval
    assert low is not None
    assert high is not None
    assert low / 1.1 <= d90 <= high * 1.1
    assert found.d90 == pytest.approx(d90, rel=0.25)
    assert high < 2 * low
    assert found.spent <= 9.5
    assert len(world.asked) == len({(a.d, a.training_seed) for a in world.asked}), "no trial is made twice"
    assert len({a.training_seed for a in world.asked}) == len(world.asked), "seeds are fresh"
    assert found.sure is not None
    assert found.d90 <= found.sure <= high


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
    assert second.spent == math.fsum(
        0.6 if trial.high == math.inf else 1.0 for trial in second.trials[len(first.trials) :]
    )
    assert len(world.asked) <= 2
    assert second.d90 == pytest.approx(first.d90, rel=0.1)


def test_asks_that_are_open_are_planned_around() -> None:
    trials = [seen(100, 0.34), seen(10_000, 0.68, 1)]
    one = next_trial(problem(), trials)
    two = next_trial(problem(), trials, [one])
    three = next_trial(problem(), trials, [two, one])
    assert one is not None
    assert two is not None
    assert three is not None
    assert len({ask.training_seed for ask in (one, two, three)}) == 3
    assert next_trial(problem(), trials[::-1], [one]) == two, "the order of trials changes nothing"
    assert next_trial(problem(budget=4.4), trials, [one, two]) is None, "open asks count against the budget"


def test_a_decision_is_quick() -> None:
    trials = [
        seen(d, 0.5 + 0.05 * math.log(d / 700), i)
        for i, d in enumerate((64, 200, 300, 450, 600, 800, 1000, 1500, 2500, 9000))
    ]
    next_trial(problem(budget=30), trials[:-1])  # the curves are made once in a process
    began = time.process_time()
    assert next_trial(problem(budget=30, resolution=1.0), trials) is not None
    assert time.process_time() - began < 0.3


# --- what the trials do not bound ----------------------------------------------------------------------------------------


def test_one_trial_that_passed_says_at_most() -> None:
    found = summarise(problem(), [seen(42_000, 0.66)])
    assert found.status == "floor"
    assert found.interval[0] is None
    assert found.d90 == found.interval[1]
    assert found.d90 is not None
    assert found.d90 <= 42_000


def test_one_trial_that_failed_says_above() -> None:
    found = summarise(problem(), [seen(65_536, 0.35)])
    assert (found.status, found.d90, found.sure) == ("unreachable", None, None)
    low, high = found.interval
    assert high is None
    assert low is not None
    assert low >= 65_536


def test_all_passing_and_all_failing_leave_an_end_open() -> None:
    passing = search(World(1e-3), problem(low=7, high=10_000, start=5000, budget=4))
    assert passing.status == "floor"
    assert passing.interval == (None, passing.d90)
    assert passing.d90 is not None
    assert passing.d90 <= 5000
    failing = search(World(1e12), problem(high=4000, budget=4))
    assert (failing.status, failing.d90) == ("unreachable", None)
    assert failing.interval[1] is None
    assert failing.interval[0] is not None
    assert failing.interval[0] >= 4000 / 1.2


def test_a_threshold_above_every_score_has_no_upper_end() -> None:
    found = search(World(700), problem(goal=Goal(0.95, 0.0), full=1.0, budget=6))
    assert found.status == "unreachable"
    assert found.interval[1] is None


@pytest.mark.parametrize("budget", [1, 2])
def test_a_budget_of_one_or_two_invents_no_end(budget: int) -> None:
    world = World(300)
    found = search(world, problem(goal=Goal(0.15, 0.5), full=None, budget=budget))
    assert found.spent <= budget + 0.5
    if budget == 1:
        assert (found.status, found.d90, found.interval, found.sure) == ("unknown", None, (None, None), None)
        assert [asked.d for asked in world.asked] == [None]
    else:
        assert found.status == "floor"
        assert found.interval == (None, found.d90)


def test_two_trials_say_between() -> None:
    found = summarise(problem(), [seen(1000, 0.42), seen(4000, 0.58, 1)])
    assert found.status == "found"
    low, high = found.interval
    assert low is not None
    assert high is not None
    assert 500 <= low < 2000 < high <= 8000


def test_no_trial_and_no_baseline_are_unknown() -> None:
    assert summarise(problem(), []).status == "unknown"
    assert summarise(problem(full=None), [seen(100, 0.6)]).status == "unknown"


def test_ends_are_near_what_was_tried() -> None:
    """An end more than twice outside is the prior's, not the trials'."""
    for seed in range(12):
        draw = numpy.random.default_rng(seed)
        ds = sorted(int(d) for d in 10 ** draw.uniform(1.5, 4, 3))
        trials = [seen(d, float(numpy.clip(0.5 + 0.06 * math.log(d / 700) + 0.02 * draw.standard_normal(), 0.3, 0.7)), i)
                  for i, d in enumerate(ds)]  # fmt: skip
        low, high = summarise(problem(), trials).interval
        assert low is None or low >= ds[0] / 2 - 1
        assert high is None or high <= ds[-1] * 2 + 1


# --- noise, censored trials, failures -----------------------------------------------------------------------------------


def test_a_trial_that_stopped_is_censored_at_the_threshold() -> None:
    """Its score there is the luckiest of its looks: two that stopped at unequal scores say the same."""
    one, other = (Observation.of(NextTrial(500, 1, 1), "passed", score, 0.5, 0.5) for score in (0.505, 0.56))
    assert one == other
    assert (one.low, one.high) == (0.5, math.inf)
    given_up = Observation.of(NextTrial(500, 1, 1), "hopeless", 0.4, 0.5, 0.5)
    assert (given_up.low, given_up.high) == (0.4, 0.5)


def test_a_trial_that_diverged_says_nothing_whatever_it_scored() -> None:
    trials = [seen(50, 0.32), seen(3000, 0.66, 1)]
    diverged = [
        Observation.of(NextTrial(d, 5, 5), "diverged", score, 0.5, 0.0) for d, score in ((300, 0.1), (100, 0.9))
    ]
    assert all((one.low, one.high) == (-math.inf, math.inf) for one in diverged)
    before, after = summarise(problem(), trials), summarise(problem(), [*trials, *diverged])
    assert (after.d90, after.interval, after.noise) == (before.d90, before.interval, before.noise), "not by a bit"
    assert after.failed == tuple(diverged)
    alone = summarise(problem(), diverged)
    assert (alone.status, alone.d90, alone.interval) == ("unknown", None, (None, None))


def test_a_search_whose_trials_all_fail_ends_though_they_cost_nothing() -> None:
    def fails(asked: NextTrial) -> Observation:
        return Observation.of(asked, "failed", -math.inf, None, 0.0)

    found = search(fails, problem())
    assert found.status == "unknown"
    assert len(found.failed) == 3
    assert len({trial.training_seed for trial in found.failed}) == 3, "each with another seed"


def test_a_bound_moves_the_crossing_to_its_side() -> None:
    trials = [seen(50, 0.32), seen(3000, 0.66, 1)]
    middle = summarise(problem(), trials).posterior
    passed = summarise(problem(), [*trials, Observation(250, 2, 2, 0.5, math.inf)]).posterior
    given_up = summarise(problem(), [*trials, Observation(700, 2, 2, 0.35, 0.5)]).posterior
    assert middle is not None
    assert passed is not None
    assert given_up is not None
    assert passed.quantile(0.5) < 0.85 * middle.quantile(0.5)
    assert given_up.quantile(0.5) > 1.15 * middle.quantile(0.5)


def test_a_failed_training_is_flagged_and_left_out() -> None:
    trials = [seen(d, 0.5 + 0.2 * math.tanh(math.log(d / 700) / 2), i) for i, d in enumerate((100, 400, 900, 3000))]
    sound = summarise(problem(), trials)
    with_failed = summarise(problem(), [*trials, seen(2000, 0.305, 9)])
    assert [trial.d for trial in with_failed.failed] == [2000]
    assert not sound.failed
    assert with_failed.d90 == pytest.approx(sound.d90, rel=0.15)
    assert with_failed.interval[1] <= 1.5 * sound.interval[1]


def test_a_failed_training_is_reported_and_tried_again() -> None:
    world, progress = World(750), list[str]()

    def evaluate(asked: NextTrial) -> Observation:
        trial = world(asked)
        return replace(trial, low=0.302, high=0.302) if asked.d == 1000 else trial

    found = search(evaluate, problem(first=(100, 1000, 10_000)), progress=progress.append)
    (told,) = [line for line in progress if "its training most likely failed" in line]
    assert told.startswith("d = 1,000, seed 1")
    after = [asked for asked in world.asked[3:] if asked.d is not None]
    assert after, "another seed near it is trained"
    low, high = found.interval
    assert low <= 750 <= high


def test_noise_is_learned_from_the_trials_and_from_repeats_elsewhere() -> None:
    def scattered(sigma: float) -> list[Observation]:
        draw = numpy.random.default_rng(3)
        ds = (200, 300, 450, 700, 700, 1000, 1500, 2500)
        return [
            seen(d, 0.5 + 0.2 * math.tanh(math.log(d / 700) / 2) + sigma * draw.standard_normal(), i)
            for i, d in enumerate(ds)
        ]

    quiet, loud = (summarise(problem(), scattered(sigma)) for sigma in (0.003, 0.03))
    assert quiet.noise < 0.012 < 0.017 < loud.noise
    told = summarise(problem(scatter=(6 * 0.03**2, 6)), scattered(0.003)[:3])
    assert told.noise > summarise(problem(), scattered(0.003)[:3]).noise


def test_a_baseline_that_scatters_is_trained_again() -> None:
    class Scattered(World):
        def __call__(self, asked: NextTrial) -> Observation:
            if asked.d is None:
                self.asked.append(asked)
                score = 0.7 + 0.03 * numpy.random.default_rng(asked.training_seed).standard_normal()
                return Observation(None, asked.projection_seed, asked.training_seed, score, score)
            return super().__call__(asked)

    world = Scattered(300, noise=0.02)
    found = search(world, problem(goal=Goal(0.0, 0.72), full=None, noise=0.02, resolution=1.02, budget=20))
    full = [asked for asked in world.asked if asked.d is None]
    assert len({asked.training_seed for asked in full}) == len(full) >= 2
    assert found.threshold == pytest.approx(0.72 * numpy.mean([t.low for t in found.trials if t.d is None]))


# --- the range, the budget, giving up --------------------------------------------------------------------------------------


def test_values_asked_for_come_first() -> None:
    world = World(300)
    found = search(world, problem(first=(100, 1000), high=10_000))
    assert [asked.d for asked in world.asked[:2]] == [100, 1000]
    assert {100, 1000} <= {trial.d for trial in found.trials}


def test_the_budget_is_kept_and_more_of_it_narrows_the_interval() -> None:
    found = search(World(300, noise=0.05), problem(budget=6, resolution=1.0, noise=0.05))
    assert found.spent <= 6.5
    tight = search(World(300, noise=0.05), problem(budget=20, resolution=1.0, noise=0.05))
    ratio, before = ((one.interval[1] or math.inf) / (one.interval[0] or 1) for one in (tight, found))
    assert ratio < before


@pytest.mark.parametrize(
    ("changes", "words"), [({"low": 5, "high": 4}, "range"), ({"high": 9, "first": (10,)}, "outside the range")]
)
def test_impossible_ranges_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        search(World(3), problem(**changes))


def test_nearest_d_is_a_square_above_the_lambdas_where_only_those_can_be_trained() -> None:
    assert nearest_d(1234.0, 1, 10**6) == round_d(1234.0) == 1200
    assert nearest_d(1234.0, 1, 10**6, 0) == 35**2
    assert nearest_d(1234.0, 9, 10**6, 8) == 8 + 35**2
    assert nearest_d(2.0, 9, 10**6, 8) == 9
    assert nearest_d(5.0, 20, 90, 8) == 8 + 4**2
    assert nearest_d(500.0, 20, 90, 8) == 8 + 9**2


@pytest.mark.parametrize(
    ("d", "expected"), [(0.3, 1), (9.4, 9), (57.2, 57), (123, 120), (1000, 1000), (4_567, 4_600), (99_999, 100_000)]
)
def test_round_d_keeps_two_digits(d: float, expected: int) -> None:
    assert round_d(d) == expected


EARLIER = [[0.5, 0.6, 0.7, 0.72, 0.73, 0.74], [0.5, 0.62, 0.68, 0.7, 0.72, 0.72]]


def test_a_trial_is_given_up_only_far_below() -> None:
    assert will_fail([0.4, 0.5, 0.55], EARLIER, 6, 0.75, 0.01)
    assert not will_fail([0.4, 0.5, 0.69], EARLIER, 6, 0.75, 0.01), "it may rise as the others did"
    assert not will_fail([0.4, 0.5], EARLIER, 6, 0.75, 0.01), "not before half of the evaluations"
    assert not will_fail([0.4, 0.5, 0.55], EARLIER[:1], 6, 0.75, 0.01), "not by one trial"
    assert not will_fail([0.4, 0.7, 0.5], EARLIER, 6, 0.75, 0.01), "the best so far counts"
