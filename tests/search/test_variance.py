"""The shares of P's seed and training's, where they are known."""

from __future__ import annotations

import math

import numpy
import pytest

from d90.search import Observation
from d90.search.variance import variance_shares


def drawn(share: float, seed: int, projections: int, repeats: int) -> list[Observation]:
    draw = numpy.random.default_rng(seed)
    trials, t = [], 0
    for d, mean in ((100, 0.7), (200, 0.8)):
        for p in range(projections):
            own = math.sqrt(share) * draw.standard_normal()
            for _ in range(repeats):
                score = mean + 0.01 * (own + math.sqrt(1 - share) * draw.standard_normal())
                trials.append(Observation(d, p, t, score, score))
                t += 1
    return trials


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_many_trials_give_the_share(share: float) -> None:
    found = variance_shares(drawn(share, 1, 60, 3))
    assert found is not None
    assert found.projection == pytest.approx(share, abs=0.1)
    assert found.interval[0] < share < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.35
    assert found.deviation == pytest.approx(0.01, rel=0.15)


def test_few_trials_say_little_and_the_interval_covers() -> None:
    inside = 0
    for seed in range(200):
        share = float(numpy.random.default_rng(1000 + seed).uniform())
        found = variance_shares(drawn(share, seed, 2, 2))
        inside += found.interval[0] <= share <= found.interval[1]
    assert inside / 200 >= 0.9 - 2 * (0.9 * 0.1 / 200) ** 0.5
    assert found.interval[1] - found.interval[0] > 0.5


def test_without_a_repeated_projection_there_is_no_share() -> None:
    trials = [Observation(100, s, s, 0.7 + s / 100, 0.7 + s / 100) for s in range(4)]
    assert variance_shares(trials) is None
    assert variance_shares([*trials, Observation(100, 0, 9, 0.7, math.inf)]) is None, "a stopped trial has no score"
    assert variance_shares([*trials, Observation(100, 0, 9, 0.71, 0.71)]) is not None
