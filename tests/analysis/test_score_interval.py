"""Intervals of scores: the textbook's numbers, and what they cover."""

from __future__ import annotations

import numpy
import pytest

from d90.analysis.score_interval import bootstrap_interval, combined_half_width, pooled_deviation, wilson_interval


def test_wilsons_interval_is_the_textbooks() -> None:
    assert wilson_interval(0.5, 100) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    low, high = wilson_interval(1.0, 20)
    assert (low, high) == (pytest.approx(0.8389, abs=1e-4), 1.0)


def test_wilsons_interval_covers_the_truth() -> None:
    drawn = numpy.random.default_rng(0).binomial(200, 0.9, size=2000) / 200
    inside = sum(low <= 0.9 <= high for low, high in (wilson_interval(share, 200) for share in drawn))
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_the_bootstrap_agrees_where_both_apply() -> None:
    right = numpy.arange(400) < 320
    low, high = bootstrap_interval(lambda rows: float(right[rows].mean()), 400)
    assert (low, high) == (pytest.approx(0.76, abs=0.01), pytest.approx(0.84, abs=0.01))


def test_seeds_shrink_their_own_part_alone() -> None:
    deviation, freedom = pooled_deviation([(0.8, 0.82), (0.7, 0.72)])
    assert (deviation, freedom) == (pytest.approx(0.01414, abs=1e-4), 2)
    assert pooled_deviation([(0.8,), (0.7,)]) == (0.0, 0)
    assert combined_half_width(0.02, 0.0, 4, 0) == pytest.approx(0.0392, abs=1e-4)
    assert combined_half_width(0.0, 0.01, 4, 30) == pytest.approx(2.042 * 0.005, abs=1e-4)
