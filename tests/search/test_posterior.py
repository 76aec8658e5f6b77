"""The curves and the fit: what every curve must do, and the posterior against a slow and plain one."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import special

from d90.search import Observation, SearchProblem
from d90.search.curves import COUNT, rises
from d90.search.noise import expected_noise, pooled_scatter
from d90.search.posterior import fit_posterior, probability_failed, score_cdf
from d90.search.rules import Goal

PROBLEM = SearchProblem(Goal(0.0, 0.9), 1, 1_000_000, chance=0.1, noise=0.01)
FULL = Observation(None, 0, 0, 0.9, 0.9)


def seen(d: int, score: float, seed: int = 0) -> Observation:
    return Observation(d, seed, seed, score, score)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
def test_every_curve_is_anchored_where_it_first_reaches_the_share(share: float) -> None:
    curves = rises(share)
    at = curves.pairs(numpy.zeros(COUNT), numpy.arange(COUNT))
    assert numpy.abs(at - share).max() < 0.08
    assert numpy.median(numpy.abs(at - share)) < 1e-3
    before = curves.values[: len(curves.values) // 2 - 1]
    assert (before < share + 1e-6).all(), "nothing reaches it earlier"
    assert curves.values.shape[1] == COUNT
    assert numpy.array_equal(rises(share).values, curves.values)
    assert numpy.median(curves.values[-1]) == pytest.approx(1.0, abs=0.05)


def test_exact_scores_on_both_sides_hold_the_crossing() -> None:
    def score(d: float) -> float:
        return 0.1 + 0.8 / (1 + math.exp(-(math.log(d / 300) + 2.05) / 1.0))  # 0.81 at about 305

    fit = fit_posterior([FULL, *(seen(d, score(d), i) for i, d in enumerate((50, 100, 200, 400, 800)))], PROBLEM)
    assert fit.quantile(0.5) == pytest.approx(305, rel=0.1)
    assert fit.quantile(0.05) < fit.quantile(0.5) < fit.quantile(0.95)
    assert fit.passes(100) < 0.05 < 0.95 < fit.passes(800)
    (_, mean, low, high), *_ = fit.band([300.0], 0.9)
    assert low <= mean <= high
    assert mean == pytest.approx(score(300), abs=0.02)
    assert fit.weight.sum() == pytest.approx(1.0)


def test_the_order_of_trials_changes_no_bit() -> None:
    trials = [FULL, seen(50, 0.4), seen(100, 0.6, 1), seen(400, 0.8, 2), Observation(900, 9, 9, 0.81, math.inf)]
    one, other = (fit_posterior(some, PROBLEM) for some in (trials, trials[::-1]))
    assert numpy.array_equal(one.weight, other.weight)
    assert numpy.array_equal(one.atoms.c, other.atoms.c)


def test_a_trial_far_from_the_crossing_says_little_of_it() -> None:
    near = [FULL, seen(200, 0.74), seen(600, 0.85, 1)]
    far = [*near, seen(100_000, 0.9, 2)]
    one, two = (fit_posterior(some, PROBLEM) for some in (near, far))
    assert two.quantile(0.5) == pytest.approx(one.quantile(0.5), rel=0.25)


def test_probability_of_failure_is_high_only_near_chance_above_what_passes() -> None:
    trials = [FULL, seen(200, 0.7), seen(600, 0.83, 1), seen(1500, 0.87, 2)]
    bad, low = seen(1000, 0.11, 3), seen(300, 0.76, 4)
    fit = fit_posterior([*trials, bad, low], PROBLEM)
    assert probability_failed(bad, fit) > 0.9
    assert probability_failed(low, fit) < 0.05
    assert all(probability_failed(trial, fit) < 0.1 for trial in trials)


def test_the_distribution_of_scores_is_a_normal_with_heavy_tails() -> None:
    z = numpy.linspace(-6, 6, 25)
    exact = 0.96 * special.ndtr(z) + 0.04 * special.ndtr(z / 3)
    assert numpy.abs(score_cdf(z, numpy.zeros(25), numpy.ones(25)) - exact).max() < 1e-3


def test_the_expected_noise_has_a_floor_and_is_of_the_metric() -> None:
    """MNIST's 10,000 examples were told .0018, where seeds scatter by .004 to .014."""
    mnist = expected_noise("accuracy", 10_000, 0.98, 0.11)
    assert mnist == pytest.approx(math.hypot(0.012, 0.5 * math.sqrt(0.1275 / 10_000)))
    assert 0.012 < mnist < 0.0122
    assert expected_noise("f1", 300, 0.8, 0.5) == pytest.approx(0.0158, abs=1e-4)
    assert expected_noise("loss", 872, -1.5, -4.0) == pytest.approx(0.03), "accuracy's formula is not a loss's"
    assert expected_noise("loss", 872, -1.5, -4.0, deviation=2.0) == pytest.approx(math.hypot(0.03, 1 / math.sqrt(872)))
    assert expected_noise("pearson", 100, 0.6, 0.0) == pytest.approx(math.hypot(0.0072, 0.5 * 0.64 / 10))
    assert expected_noise("matthews", 1043, 0.29, 0.0) > 0.014


def test_scatter_is_pooled_over_groups_and_counts_for_a_hint() -> None:
    squares, freedom = pooled_scatter([[0.1, 0.3], [0.5, 0.5, 0.8]])
    assert squares == pytest.approx(0.02 + 0.06)
    assert freedom == 3
    squares, freedom = pooled_scatter([[0.0, 1.0]] * 60)
    assert (squares, freedom) == (pytest.approx(3.0), 6)
