"""The betting bound against exact probabilities, 40 digits, and simulated losses."""

from __future__ import annotations

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import torch

from d90.analysis import bounds
from d90.analysis.betting import betting_upper
from d90.errors import InputError

mp.mp.dps = 40


def test_it_fails_with_probability_delta_at_most_exactly() -> None:
    """Every sequence of 9 coins, weighed by its probability: no simulation."""
    n, delta = 9, 0.1
    found = {
        coins: betting_upper(torch.tensor(coins).double(), 0.0, 1.0, delta)
        for coins in itertools.product((0, 1), repeat=n)
    }
    for p in np.linspace(0.02, 0.98, 49):
        fails = sum(p ** sum(coins) * (1 - p) ** (n - sum(coins)) for coins, bound in found.items() if bound < p)
        assert fails <= delta, p
    assert min(found.values()) < 0.6, "and it says something"


@pytest.mark.parametrize(("delta", "bits"), [(0.05, 0.0), (0.05, 40.0), (1e-6, 155.0)])
def test_the_wealth_at_the_bound_in_forty_digits(delta: float, bits: float) -> None:
    """W(bound) = 2^K / delta, the bets written once more from the definition."""
    x = np.random.default_rng(1).beta(2.0, 9.0, size=400)
    low, high = 0.5, 8.0
    bound = betting_upper(torch.from_numpy(low + (high - low) * x), low, high, delta, bits)
    price, n = -mp.log(mp.mpf(delta)) + mp.mpf(bits) * mp.log(2), len(x)
    m, mean, spread, wealth = mp.mpf((bound - low) / (high - low)), mp.mpf("0.5"), mp.mpf("0.25"), mp.mpf(0)
    total, squares = mp.mpf("0.5"), mp.mpf("0.25")
    for t, loss in enumerate(map(mp.mpf, x.tolist()), start=1):
        reached = min(mp.mpf(1), mean + mp.sqrt(2 * spread * price / n))
        theta = min(mp.mpf(1), mp.sqrt(2 * price / (n * spread)) * (1 - reached))
        wealth += mp.log(1 + theta * (m - loss) / (1 - m))
        total += loss
        mean = total / (t + 1)
        squares += (loss - mean) ** 2
        spread = squares / (t + 1)
    assert float(wealth) == pytest.approx(float(price), rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(0.5, 4.0), (5.0, 5.0), (40.0, 60.0), (0.05, 1.0)])
def test_it_holds_on_simulated_losses(a: float, b: float) -> None:
    rng, n, runs = np.random.default_rng(7), 150, 400
    draws = torch.from_numpy(rng.beta(a, b, size=(runs, n)))
    fails = sum(betting_upper(row, 0.0, 1.0, 0.1) < a / (a + b) for row in draws) / runs
    assert fails <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / runs)


def test_it_is_tighter_than_bernstein_where_documents_differ_little() -> None:
    """As many documents, bits, range and spread as a stored certificate of Wikipedia has: 6.445 by empirical Bernstein."""
    low, high = bounds.smoothed_range(0.1, 512)
    mean, variance = (6.154949955 - low) / (high - low), 0.399330895 / (high - low) ** 2
    k = mean * (1 - mean) / variance - 1
    x = low + (high - low) * torch.from_numpy(np.random.default_rng(0).beta(mean * k, (1 - mean) * k, size=15_246))
    bernstein = bounds.empirical_bernstein(float(x.mean()), float(x.var()), low, high, len(x), 0.05, 155)
    assert bernstein == pytest.approx(6.4457, abs=1e-4)
    assert betting_upper(x, low, high, 0.05, 155) == pytest.approx(6.2396, abs=1e-4)


def test_ends_and_mistakes() -> None:
    assert betting_upper(torch.ones(5), 0.0, 1.0) == pytest.approx(1.0)
    assert betting_upper(torch.full((3,), 0.2), 0.0, 1.0, 0.05, 500.0) == pytest.approx(1.0), (
        "three losses say nothing of 500 bits"
    )
    none = betting_upper(torch.zeros(300), 0.0, 1.0)
    assert bounds.binomial_upper(0, 300) <= none < 0.03
    for losses, low, high in (
        (torch.zeros(0), 0.0, 1.0),
        (torch.tensor([math.nan]), 0.0, 1.0),
        (torch.tensor([1.5]), 0.0, 1.0),
        (torch.zeros(3), 1.0, 1.0),
    ):
        with pytest.raises(InputError, match="expected"):
            betting_upper(losses, low, high)
    with pytest.raises(InputError, match="delta"):
        betting_upper(torch.zeros(3), 0.0, 1.0, 0.0)
