"""Intervals of scores: the textbook's numbers, and what they cover."""

from __future__ import annotations

import numpy
import pytest

from d90.analysis.score_interval import (
    bootstrap_interval,
    combined_half_width,
    effective_count,
    pooled_deviation,
    standard_error,
    wilson_interval,
)


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


def test_answers_to_one_prompt_count_as_one_where_they_are_alike_and_singly_where_they_are_not() -> None:
    drawn = numpy.random.default_rng(0)
    once = (drawn.random(300) < 0.8).astype(float)
    groups, alike = numpy.repeat(numpy.arange(300), 4), numpy.repeat(once, 4)
    assert (
        standard_error(alike, groups)
        == pytest.approx(standard_error(once))
        == pytest.approx(once.std(ddof=1) / 300**0.5)
    )
    assert effective_count(alike, groups) == pytest.approx(300, rel=0.01)
    single, grouped = (
        bootstrap_interval(lambda rows, v=v: float(v[rows].mean()), len(v), groups=g)
        for v, g in ((once, None), (alike, groups))
    )
    assert grouped == pytest.approx(single)
    unlike = (drawn.random(1200) < 0.8).astype(float)
    assert effective_count(unlike, groups) == pytest.approx(1200, rel=0.15)
    assert effective_count(numpy.ones(1200), groups) == 300, "all right does not tell how alike they are"
    assert effective_count(unlike) == 1200
    pairs = numpy.tile([0.0, 1.0], 600)  # a group's mean is always a half
    assert effective_count(pairs, groups) == 1200, "never more than there are examples"


def test_an_interval_of_groups_of_unequal_size_covers_the_truth() -> None:
    """Ten-fold and single prompts; every answer to a prompt is right, or none is."""
    drawn, inside, naive = numpy.random.default_rng(0), 0, 0
    groups = numpy.repeat(numpy.arange(200), [10] * 50 + [1] * 150)
    for _ in range(300):
        right = (drawn.random(200) < 0.7).astype(float)[groups]
        low, high = wilson_interval(right.mean(), effective_count(right, groups))
        inside += low <= 0.7 <= high
        low, high = wilson_interval(right.mean(), len(right))
        naive += low <= 0.7 <= high
    assert inside / 300 >= 0.92
    assert naive / 300 < 0.7
