"""The bounds: against 40 digits of mpmath, against one another, and on 2,000 simulated data sets."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

from d90.analysis import bounds as b
from d90.errors import InputError

mp.mp.dps = 40
MILLION = 1_000_000


def exact_log_cdf(k: int, n: int, p: mp.mpf) -> mp.mpf:
    """ln Pr[Binomial(n, p) <= k], summed from k downwards by the ratio of neighbours, for k below the mode."""
    p = mp.mpf(p)
    log_pmf = (
        mp.log(mp.binomial(n, k)) if n < 10_000 else mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1)
    )
    log_pmf += k * mp.log(p) + (n - k) * mp.log1p(-p)
    total, term, odds = mp.mpf(1), mp.mpf(1), (1 - p) / p
    for j in range(k, 0, -1):
        term *= j * odds / (n - j + 1)
        total += term
        if term < total * mp.mpf("1e-25"):
            break
    return log_pmf + mp.log(total)


def exact_kl(q: float, p: float) -> mp.mpf:
    q, p = mp.mpf(q), mp.mpf(p)
    return (q * mp.log(q / p) if q else mp.mpf(0)) + ((1 - q) * mp.log((1 - q) / (1 - p)) if q < 1 else mp.mpf(0))


COUNTS = [
    (0, 50, 0), (1, 50, 0), (49, 50, 0), (3, 7, 5), (12, 100, 900), (692, 6_920, 0), (692, 6_920, 400),
    (300, 60_000, 5_000), (1, MILLION, 0), (90_000, MILLION, 100_000), (10, 10**9, 0), (10**8, 10**9, 0),
    (3 * 10**8, 10**9, 10**7), (5_000, 10**9, 10**7), (2, 10**9, 10**7),
]  # fmt: skip


@pytest.mark.parametrize(("errors", "n", "bits"), COUNTS)
def test_the_binomial_inverse_is_the_exact_one(errors: int, n: int, bits: int) -> None:
    """At the bound p the exact tail is delta 2^-K: its log within 1e-9 of the price, at every size."""
    p = b.binomial_upper(errors, n, 0.05, bits)
    price = mp.log(mp.mpf("0.05")) - bits * mp.log(2)
    assert errors / n < p < 1
    slope = (p - errors / n) / (p * (1 - p)) * n  # d(log cdf)/dp, about: what the last digit of p is worth
    assert abs(exact_log_cdf(errors, n, p) - price) < 1e-8 * abs(price) + 4 * slope * math.ulp(p)


def test_the_bound_is_one_where_nothing_is_known() -> None:
    assert b.binomial_upper(5, 5) == 1.0
    assert b.binomial_upper(3, 1000, bits=1e7) == 1.0
    assert b.binomial_lower(0, 5) == 0.0


@pytest.mark.parametrize(
    ("k", "n", "p"), [(5, 100, 0.3), (60, 100, 0.6), (90, 100, 0.5), (10, 10**9, 1e-6), (0, 9, 0.5), (400, 10**6, 0.01)]
)
def test_the_log_tail(k: int, n: int, p: float) -> None:
    exact = exact_log_cdf(k, n, mp.mpf(p))
    assert math.isclose(b.log_binomial_cdf(k, n, p), float(exact), rel_tol=1e-10, abs_tol=1e-15)


def test_the_sum_and_the_beta_function_agree_where_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [(k, n, p) for n in (30, 3000, 10**7) for k in (1, n // 10, n // 3) for p in (0.4, 0.45, 0.7)]
    near = [(k, n, p) for k, n, p in points if b.log_binomial_cdf(k, n, p) > -570]
    beta = [b.log_binomial_cdf(*point) for point in near]
    monkeypatch.setattr(b, "UNDERFLOW", 1.0)
    assert len(near) >= 9
    assert [b.log_binomial_cdf(*point) for point in near] == pytest.approx(beta, rel=1e-9, abs=1e-12)


def test_published_and_known_values() -> None:
    """692 errors of 6,920: 12.0 % by hold-out; by the kl inverse 20.6 % at 400 bits, 14.9 % at 100; plain formulas."""
    assert round(100 * b.holdout_of_the_same_data(0.1, 6_920), 1) == 12.0
    assert round(100 * b.occam_kl(0.1, 6_920, bits=400), 1) == 20.6
    assert round(100 * b.occam_kl(0.1, 6_920, bits=100), 1) == 14.9
    assert b.binomial_upper(0, 100) == pytest.approx(1 - 0.05**0.01, rel=1e-14)
    assert b.relative_gap(0.95, 0.9) == pytest.approx(0.5)
    assert b.capacity_form(0.1, 200, 16, 10_000) == pytest.approx(0.1 + math.sqrt(200 * math.log(16) / 10_000))
    assert b.choice_bits([8, 4, 1]) == 5.0
    low, high = b.smoothed_range(0.1, 50_257)
    assert high - low == pytest.approx(math.log2(1 + 0.9 * 50_257 / 0.1), rel=1e-12)


@pytest.mark.parametrize("q", [0.0, 1e-9, 0.003, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("c", [3e-9, 1e-4, 0.05, 1.0, 20.0])
def test_the_kl_inverses(q: float, c: float) -> None:
    upper, lower = b.kl_upper(q, c), b.kl_lower(q, c)
    assert 0 <= lower <= q <= upper <= 1
    for p in (upper, lower):
        if 0 < p < 1 and p != q and 1 - p > 1e-6:
            digits = abs(p - q) / (p * (1 - p)) * math.ulp(max(p, 1e-300)) * 8
            assert abs(exact_kl(q, p) - c) < 1e-9 * c + digits
            assert math.isclose(b.kl(q, p), float(exact_kl(q, p)), rel_tol=1e-9)
    assert b.kl_upper(q, 2 * c) >= upper
    assert b.kl_lower(q, 2 * c) <= lower


@pytest.mark.parametrize(
    ("errors", "n", "bits"), [(0, 500, 30), (20, 500, 0), (692, 6_920, 400), (10**7, 10**8, 10**5)]
)
def test_each_bound_is_at_most_its_relaxation(errors: int, n: int, bits: int) -> None:
    """Exact <= Chernoff (kl) <= Hoeffding (Pinsker's inequality); the lower bound lies below, by symmetry."""
    rate = errors / n
    exact, chernoff = b.binomial_upper(errors, n, bits=bits), b.occam_kl(rate, n, bits=bits)
    assert rate < exact <= chernoff * (1 + 1e-12) <= b.occam_hoeffding(rate, n, bits=bits) * (1 + 1e-12)
    assert b.binomial_lower(errors, n, bits=bits) <= rate
    nats = bits * math.log(2)
    assert b.pac_bayes_kl(rate, n, nats) >= chernoff
    assert b.pac_bayes_mcallester(rate, n, nats) >= b.pac_bayes_kl(rate, n, nats) * (1 - 1e-12)
    assert b.binomial_upper(errors, n, bits=bits + 1) > exact, "a bit more costs"


def test_bounded_losses_are_the_unit_ones_rescaled() -> None:
    assert b.bounded_kl(3.0, 1.0, 11.0, 400, bits=9) == pytest.approx(1 + 10 * b.occam_kl(0.2, 400, bits=9))
    assert b.bounded_hoeffding(3.0, 1.0, 11.0, 400, bits=9) == pytest.approx(
        1 + 10 * b.occam_hoeffding(0.2, 400, bits=9)
    )
    x = math.log(2 / 0.05) + 9 * math.log(2)
    expected = 3 + math.sqrt(2 * 0.5 * x / 400) + 7 * 10 * x / (3 * 399)
    assert b.empirical_bernstein(3.0, 0.5, 1.0, 11.0, 400, bits=9) == pytest.approx(expected)


def test_bits_per_token() -> None:
    low, high = b.smoothed_range(0.05, 512)
    n, m, mean = 20_000, 5_000, 4.0
    first, second = 0.05 * n / (n + m), 0.05 * m / (n + m)
    paper = mean + (high - low) * (
        math.sqrt((1000 * math.log(2) - math.log(second)) / (2 * n)) + math.sqrt(-math.log(first) / (2 * m))
    )
    assert b.bits_per_token(mean, 0.05, 512, n, 0.05, 1000, m, "hoeffding") == pytest.approx(paper, rel=1e-12)
    whole, part = b.bits_per_token(mean, 0.05, 512, n, 0.05, 1000), b.bits_per_token(mean, 0.05, 512, n, 0.05, 1000, m)
    assert mean < whole < part < paper
    assert b.bits_per_token(mean, 0.05, 512, 10, 0.05, 1e6) == pytest.approx(high)


# --- every formula in 40 digits, written down once more from its paper -------------------------------------------------


def mp_nats(delta: float, bits: float = 0.0) -> mp.mpf:
    return -mp.log(mp.mpf(delta)) + mp.mpf(bits) * mp.log(2)


def mp_kl_upper(q: float, c: mp.mpf) -> mp.mpf:
    """sup{p : kl(q || p) <= c} by bisection in 40 digits."""
    low, high = mp.mpf(q), mp.mpf(1)
    for _ in range(130):
        middle = (low + high) / 2
        low, high = (middle, high) if exact_kl(q, middle) <= c else (low, middle)
    return high


CASES = [(0.0, 50, 0.0), (0.1, 6_920, 400.0), (0.37, 200, 12.0), (0.004, 10**6, 3_000.0)]


@pytest.mark.parametrize(("q", "n", "bits"), CASES)
@pytest.mark.parametrize("delta", [0.05, 1e-6])
def test_formulas_in_forty_digits(q: float, n: int, bits: float, delta: float) -> None:
    price, e = mp_nats(delta, bits), mp.mpf(q)

    def same(found: float, expected: mp.mpf) -> None:
        assert math.isclose(found, float(min(mp.mpf(1), expected)), rel_tol=1e-9, abs_tol=1e-14)

    same(b.nats(delta, bits) / 1e7, price / mp.mpf("1e7"))
    same(b.occam_kl(q, n, delta, bits), mp_kl_upper(q, price / n))
    same(b.occam_hoeffding(q, n, delta, bits), e + mp.sqrt(price / (2 * n)))
    divergence = bits / 3
    maurer = mp.mpf(divergence) + mp.log(2 * mp.sqrt(n) / mp.mpf(delta))
    same(b.pac_bayes_kl(q, n, divergence, delta), mp_kl_upper(q, maurer / n))
    same(b.pac_bayes_mcallester(q, n, divergence, delta), e + mp.sqrt(maurer / (2 * n)))
    low, high = mp.mpf(2), mp.mpf("7.5")
    mean = 2 + 5.5 * q
    scaled = (mp.mpf(mean) - low) / (high - low)
    of_kl = low + (high - low) * mp_kl_upper(float(scaled), price / n)
    assert math.isclose(b.bounded_kl(mean, 2, 7.5, n, delta, bits), float(of_kl), rel_tol=1e-9)
    hoeffding = min(high, mp.mpf(mean) + (high - low) * mp.sqrt(price / (2 * n)))
    assert math.isclose(b.bounded_hoeffding(mean, 2, 7.5, n, delta, bits), float(hoeffding), rel_tol=1e-12)
    x, variance = price + mp.log(2), mp.mpf("0.31")
    bernstein = mp.mpf(mean) + mp.sqrt(2 * variance * x / n) + 7 * (high - low) * x / (3 * (n - 1))
    found = b.empirical_bernstein(mean, 0.31, 2, 7.5, n, delta, bits)
    assert math.isclose(found, float(min(high, bernstein)), rel_tol=1e-12)


@pytest.mark.parametrize(("alpha", "vocabulary"), [(0.001, 50_257), (0.1, 512), (0.6, 7), (1.0, 3)])
def test_smoothing_in_forty_digits(alpha: float, vocabulary: int) -> None:
    a, v = mp.mpf(alpha), mp.mpf(vocabulary)
    low, high = b.smoothed_range(alpha, vocabulary)
    assert math.isclose(low, float(-mp.log(1 - a + a / v, 2)), rel_tol=1e-12)
    assert math.isclose(high, float(-mp.log(a / v, 2)), rel_tol=1e-12)
    if alpha == 1.0:
        return
    n, m, delta, bits, among, mean = 3_000, 700, 0.05, 150.0, 24, (low + high) / 2
    s = mp.mpf(m) / (n + m)  # of delta for the n documents: the m, fewer, take the larger share
    width = mp.mpf(high) - mp.mpf(low)
    first = mp.mpf(mean) + width * mp.sqrt((mp_nats(delta) - mp.log(1 - s) + mp.log(among)) / (2 * m))
    hoeffding = first + width * mp.sqrt((mp_nats(delta, bits) - mp.log(s)) / (2 * n))
    found = b.bits_per_token(mean, alpha, vocabulary, n, delta, bits, m, "hoeffding", among=among)
    assert math.isclose(found, float(min(mp.mpf(high), hoeffding)), rel_tol=1e-9)
    step = mp_kl_upper(0.5, (mp_nats(delta) - mp.log(1 - s) + mp.log(among)) / m)
    kl = mp.mpf(low) + width * mp_kl_upper(float(step), (mp_nats(delta, bits) - mp.log(s)) / n)
    found = b.bits_per_token(mean, alpha, vocabulary, n, delta, bits, m, "kl", among=among)
    assert math.isclose(found, float(kl), rel_tol=1e-8)
    whole = b.bits_per_token(mean, alpha, vocabulary, n, delta, bits, form="bernstein", variance=0.2)
    assert whole == b.empirical_bernstein(mean, 0.2, low, high, n, delta, bits)


@pytest.mark.parametrize(
    ("m", "among", "said", "was"),
    [(1_000, 16, 4.546, 4.702), (1_000, 160, 4.689, 4.824), (1_000, 1_024, 4.790, 4.914), (2_000, 64, 4.381, 4.453)],
)
def test_the_larger_share_of_delta_goes_to_the_fewer_documents(m: int, among: int, said: float, was: float) -> None:
    """kl^-1 in two steps, written in 40 digits from the definition: mean 3 bits, alpha .01 of 512 tokens, 155 bits, n = 15,246."""
    n, alpha, vocabulary, delta, bits = 15_246, mp.mpf("0.01"), 512, mp.mpf("0.05"), 155
    low, high = -mp.log(1 - alpha + alpha / vocabulary, 2), mp.log(vocabulary / alpha, 2)

    def two_steps(of_the_m: mp.mpf) -> float:
        inside = mp_kl_upper(float((3 - low) / (high - low)), mp.log(among / of_the_m) / m)
        outside = mp_kl_upper(float(inside), (mp.log(1 / (delta - of_the_m)) + bits * mp.log(2)) / n)
        return float(low + (high - low) * outside)

    found = b.bits_per_token(3.0, 0.01, vocabulary, n, 0.05, bits, m, "kl", among=among)
    assert found == pytest.approx(two_steps(delta * n / (n + m)), rel=1e-9)
    assert round(found, 3) == said
    assert round(two_steps(delta * m / (n + m)), 3) == was, "the other way round: valid, and loose"


def test_the_papers_quantities_in_forty_digits() -> None:
    for train, evaluation in ((0.99, 0.873), (0.5, 0.62), (1.0, 0.0)):
        exact = (mp.mpf(train) - mp.mpf(evaluation)) / (1 - mp.mpf(evaluation))
        assert math.isclose(b.relative_gap(train, evaluation), float(exact), rel_tol=1e-12)
    for d, levels, n in ((200, 16, 10_000), (896, 3, 3_668), (0, 2, 5), (7, 1, 9)):
        exact = mp.mpf("0.125") + mp.sqrt(mp.mpf(d) * mp.log(levels) / n)
        assert math.isclose(b.capacity_form(0.125, d, levels, n), float(exact), rel_tol=1e-12)
    counts = (3, 7, 1, 1_000)
    assert math.isclose(b.choice_bits(counts), float(sum(mp.log(c, 2) for c in counts)), rel_tol=1e-12)


@pytest.mark.parametrize(("errors", "n", "bits"), [(40, 50, 0), (692, 6_920, 9), (999_990, MILLION, 0)])
def test_the_lower_bound_is_the_exact_one(errors: int, n: int, bits: int) -> None:
    """Pr[Binomial(n, p) >= errors] = Pr[Binomial(n, 1-p) <= n - errors] is delta 2^-K there."""
    p = b.binomial_lower(errors, n, 0.05, bits)
    assert 0 < p < errors / n
    price = mp.log(mp.mpf("0.05")) - bits * mp.log(2)
    slope = (errors / n - p) / (p * (1 - p)) * n
    assert abs(exact_log_cdf(n - errors, n, 1 - mp.mpf(p)) - price) < 1e-8 * abs(price) + 4 * slope * math.ulp(1.0)


def test_the_hold_outs_bound_is_the_binomial_one_of_its_part() -> None:
    p = b.holdout_of_the_same_data(0.123, 20_000, 0.1, 0.05)
    assert abs(exact_log_cdf(246, 2_000, mp.mpf(p)) - mp.log(mp.mpf("0.05"))) < 1e-7


FAILS = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


def test_on_simulated_data_sets_a_bound_at_95_percent_fails_in_at_most_5() -> None:
    """64 hypotheses with own true errors; the one least wrong in training is picked, and six bits are paid for it."""
    rng, n = np.random.default_rng(0), 150
    true = rng.uniform(0.2, 0.4, size=64)
    counts = rng.binomial(n, true, size=(2000, 64))
    picked = counts.argmin(axis=1)
    errors, truth = counts.min(axis=1).tolist(), true[picked]
    bits = b.choice_bits([64])
    for bound in (
        b.occam_kl,
        b.occam_hoeffding,
        lambda e, n, delta, bits: b.binomial_upper(round(e * n), n, delta, bits),
    ):
        claims = np.array([bound(e / n, n, 0.05, bits) for e in errors])
        assert np.mean(claims < truth) <= FAILS
    unpaid = np.array([b.binomial_upper(e, n, 0.05) for e in errors])
    assert np.mean(unpaid < truth) > FAILS, "the search has to be paid for: without its bits the same bound fails"


@pytest.mark.parametrize(("n", "p"), [(30, 0.1), (1000, 0.02), (400, 0.5)])
def test_one_hypothesis_alone_and_both_sides(n: int, p: float) -> None:
    errors = np.random.default_rng(n).binomial(n, p, size=2000).tolist()
    above = np.mean([b.binomial_upper(e, n) < p for e in errors])
    below = np.mean([b.binomial_lower(e, n) > p for e in errors])
    assert max(above, below) <= FAILS
    assert above > 0.005, "nearly tight: a bound that never fails would be too loose"


def test_bounded_losses_on_simulated_data_sets() -> None:
    losses = 2 + 6 * np.random.default_rng(1).beta(0.3, 3.0, size=(2000, 200))
    truth, means, variances = 2 + 6 * 0.3 / 3.3, losses.mean(axis=1).tolist(), losses.var(axis=1, ddof=1).tolist()
    assert np.mean([b.bounded_kl(m, 2, 8, 200) < truth for m in means]) <= FAILS
    assert np.mean([b.bounded_hoeffding(m, 2, 8, 200) < truth for m in means]) <= FAILS
    both = zip(means, variances, strict=True)
    assert np.mean([b.empirical_bernstein(m, v, 2, 8, 200) < truth for m, v in both]) <= FAILS


def test_bits_per_token_on_simulated_data_sets() -> None:
    """16 models whose documents' losses have known means; the best on the m evaluated of n documents is picked, and paid for."""
    rng, n, m, alpha, vocabulary = np.random.default_rng(3), 160, 60, 0.1, 64
    low, high = b.smoothed_range(alpha, vocabulary)
    bits = b.choice_bits([16])
    failures = {"kl": 0, "hoeffding": 0, "bernstein": 0}
    for _ in range(2000):
        shapes = rng.uniform(1.0, 2.0, size=16)
        losses = low + (high - low) * rng.beta(shapes, 4.0, size=(n, 16))
        truth = low + (high - low) * shapes / (shapes + 4.0)
        part = losses[:m].mean(axis=0)  # rows are exchangeable: the first m are m drawn at random
        best, whole = int(part.argmin()), int(losses.mean(axis=0).argmin())
        for form in ("kl", "hoeffding"):
            claim = b.bits_per_token(float(part[best]), alpha, vocabulary, n, 0.05, bits, m, form, among=16)  # type: ignore[arg-type]
            failures[form] += claim < truth[best]
        mean, variance = float(losses[:, whole].mean()), float(losses[:, whole].var(ddof=1))
        claim = b.bits_per_token(mean, alpha, vocabulary, n, 0.05, bits, form="bernstein", variance=variance)
        failures["bernstein"] += claim < truth[whole]
    assert max(failures.values()) / 2000 <= FAILS, failures


def test_pac_bayes_on_simulated_data_sets() -> None:
    """Q weighs 32 hypotheses by exp(-n kl) of their errors, P uniform: KL(Q||P) is paid for, and the mean true error bounded."""
    rng, n = np.random.default_rng(4), 100
    true = rng.uniform(0.2, 0.4, size=32)
    counts = rng.binomial(n, true, size=(2000, 32))
    weights = np.exp(-30.0 * counts / n)
    weights /= weights.sum(axis=1, keepdims=True)
    divergence = (weights * np.log(32 * weights)).sum(axis=1).tolist()
    empirical, truth = (weights * counts / n).sum(axis=1).tolist(), weights @ true
    for bound in (b.pac_bayes_kl, b.pac_bayes_mcallester):
        claims = np.array([bound(e, n, kl, 0.05) for e, kl in zip(empirical, divergence, strict=True)])
        assert np.mean(claims < truth) <= FAILS


def test_every_public_function_is_tested_here() -> None:
    """In this file's text: a bound that nobody checked is no bound."""
    from pathlib import Path

    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in b.__all__ if f"b.{name}(" not in text and f"b.{name}," not in text] == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: b.binomial_upper(5, 4),
        lambda: b.binomial_upper(-1, 4),
        lambda: b.binomial_upper(0, 0),
        lambda: b.binomial_upper(math.nan, 10),  # type: ignore[arg-type]
        lambda: b.binomial_upper(2.5, 10),  # type: ignore[arg-type]
        lambda: b.binomial_upper(1, 4, delta=0.0),
        lambda: b.binomial_upper(1, 4, delta=math.nan),
        lambda: b.binomial_upper(1, 4, bits=-1),
        lambda: b.binomial_upper(1, 4, bits=math.inf),
        lambda: b.occam_kl(math.nan, 10),
        lambda: b.occam_hoeffding(1.5, 10),
        lambda: b.kl_upper(0.1, -1.0),
        lambda: b.kl(0.1, 1.1),
        lambda: b.pac_bayes_kl(0.1, 10, math.nan),
        lambda: b.bounded_kl(5.0, 0.0, 1.0, 10),
        lambda: b.bounded_kl(0.5, 0.0, math.inf, 10),
        lambda: b.empirical_bernstein(0.5, 0.1, 0.0, 1.0, 1),
        lambda: b.holdout_of_the_same_data(0.1, 3, 0.1),
        lambda: b.relative_gap(1.0, 1.0),
        lambda: b.capacity_form(0.1, -1, 2, 10),
        lambda: b.choice_bits([3, 0]),
        lambda: b.smoothed_range(0.0, 10),
        lambda: b.bits_per_token(3.0, 0.1, 256, 100, evaluated=101),
        lambda: b.bits_per_token(3.0, 0.1, 256, 100, form="exact"),  # type: ignore[arg-type]
        lambda: b.bits_per_token(99.0, 0.1, 256, 100),
        lambda: b.bits_per_token(3.0, 0.1, 256, 100, evaluated=50, form="bernstein"),
        lambda: b.bits_per_token(3.0, 0.1, 256, 100, form="bernstein", variance=math.nan),
        lambda: b.bits_per_token(math.nan, 0.1, 256, 100),
        lambda: b.bits_per_token(3.0, 0.1, 256, 100, evaluated=50, among=0),
        lambda: b.binomial_lower(5, 4),
        lambda: b.log_binomial_cdf(1, 4, 1.5),
        lambda: b.kl_lower(0.1, math.nan),
        lambda: b.relative_gap(math.nan, 0.5),
        lambda: b.bounded_hoeffding(math.inf, 0.0, 1.0, 10),
        lambda: b.pac_bayes_mcallester(0.1, 10, -1.0),
    ],
)
def test_what_no_bound_can_be_had_from_is_refused(call) -> None:
    with pytest.raises(InputError, match=r"got|expected"):
        call()
