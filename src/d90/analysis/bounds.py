"""Guarantees on a true risk from a finite sample: pure functions of counts, bits and confidences.

Throughout, n is a number of independent examples, delta the probability that the statement fails, and `bits` the
length K of a prefix code of the hypothesis fixed before the n examples were seen (0 for a hypothesis fixed itself).
By Kraft's inequality and the union bound each hypothesis is then owed the confidence delta 2^-K, whose logarithm

    ln(1/delta) + K ln 2                                                              [nats]

is what every bound below pays. Nothing underflows: that number is used as it is, never exponentiated.
Every function raises `InputError` for values no bound can be had from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from d90.errors import InputError, unknown_name

__all__ = [
    "binomial_lower",
    "binomial_upper",
    "bits_per_token",
    "bounded_hoeffding",
    "bounded_kl",
    "capacity_form",
    "choice_bits",
    "empirical_bernstein",
    "holdout_of_the_same_data",
    "kl",
    "kl_lower",
    "kl_upper",
    "log_binomial_cdf",
    "nats",
    "occam_hoeffding",
    "occam_kl",
    "pac_bayes_kl",
    "pac_bayes_mcallester",
    "relative_gap",
    "smoothed_range",
]

LN2 = math.log(2.0)
UNDERFLOW = 1e-250  # below it the incomplete beta function of doubles is left for a sum in log space
_CHUNK = 1 << 14


def nats(delta: float, bits: float = 0.0) -> float:
    """The price of confidence: ln(1/delta) + K ln 2.

    Raises:
        InputError: delta outside (0, 1), or bits negative or not finite.
    """
    if not 0.0 < delta < 1.0:
        raise InputError(f"got delta = {delta}, expected a number inside (0, 1); 0.05 makes a bound at 95 %")
    if not (math.isfinite(bits) and bits >= 0.0):
        raise InputError(f"got a description of {bits} bits, expected a finite number >= 0: count the payload's bits")
    return -math.log(delta) + bits * LN2


def choice_bits(options: Iterable[int]) -> float:
    """Union over choices: picking one of N_1, then one of N_2, ... after seeing the data costs sum log2 N_i bits.

    The lists must be fixed before the data are seen; an open-ended choice is coded instead (`coding.omega_bits`).

    Raises:
        InputError: a list without an option.
    """
    total = 0.0
    for count in options:
        if count < 1:
            raise InputError(f"got a choice among {count} options, expected at least 1: count every option tried")
        total += math.log2(count)
    return total


def log_binomial_cdf(errors: int, n: int, p: float) -> float:
    """ln Pr[Binomial(n, p) <= errors], in nats, where the probability itself may be e^-7,000,000.

    In the far tail, ln pmf(k) + ln sum_j prod_{i<j} (k-i)(1-p) / ((n-k+i+1) p): every term is positive, and the
    first is the largest. ln pmf is Loader's saddle-point form, -n kl(k/n, p) and Stirling's errors, free of the
    cancellation of three log-gammas of 10^10.

    Raises:
        InputError: not 0 <= errors <= n, n < 1, or p outside [0, 1].
    """
    _counts(errors, n)
    _unit("probability", p)
    if errors == n or p == 0.0:
        return 0.0
    if p == 1.0:
        return -math.inf
    if errors == 0:
        return n * math.log1p(-p)
    from scipy import special  # late: what needs no bound starts without it

    direct = float(special.betaincc(errors + 1.0, float(n - errors), p))
    if direct > UNDERFLOW or p <= errors / n:
        return math.log(direct)
    return _log_pmf(errors, n, p) + math.log(_tail_over_pmf(errors, n, p))


def binomial_upper(errors: int, n: int, delta: float = 0.05, bits: float = 0.0) -> float:
    """Largest true error rate not refuted: sup{p : Pr[Binomial(n, p) <= errors] >= delta 2^-K}.

    Langford (2005, JMLR 6), Theorem 3.3 (test-set bound, K = 0) and Theorem 4.6 (Occam's razor bound): with
    probability 1 - delta over the sample, simultaneously for every hypothesis, the true error is at most this.

    Returns:
        A rate in (errors / n, 1]; 1 says nothing at all.

    Raises:
        InputError: not 0 <= errors <= n, n < 1, delta outside (0, 1), or bits negative.
    """
    _counts(errors, n)
    price = nats(delta, bits)
    if errors == n:
        return 1.0
    if errors == 0:
        return min(1.0, -math.expm1(-price / n))
    return _first_above(lambda p: log_binomial_cdf(errors, n, p) < -price, errors / n, 1.0)


def binomial_lower(errors: int, n: int, delta: float = 0.05, bits: float = 0.0) -> float:
    """Smallest true error rate not refuted: inf{p : Pr[Binomial(n, p) >= errors] >= delta 2^-K} (Langford 2005, 3.3)."""
    _counts(errors, n)
    return max(0.0, 1.0 - binomial_upper(n - errors, n, delta, bits))


def holdout_of_the_same_data(error: float, n: int, fraction: float = 0.1, delta: float = 0.05) -> float:
    """What holding out round(fraction n) of the same n examples would have certified, had it shown the same error.

    Langford (2005), Theorem 3.3, on m = round(fraction n) examples with floor(error m) errors: rounded in
    the hold-out's favour, for it is the bar every compression bound has to pass.

    Raises:
        InputError: an error or a fraction outside [0, 1], or nothing held out.
    """
    _unit("error rate", error)
    _unit("held-out fraction", fraction)
    _counts(0, n)
    held = round(fraction * n)
    if held < 1:
        raise InputError(
            f"got a fraction {fraction} of {n} examples, expected at least one held out: raise the fraction"
        )
    return binomial_upper(math.floor(error * held + 1e-9), held, delta)


def kl(q: float, p: float) -> float:
    """kl(q || p) = q ln(q/p) + (1-q) ln((1-q)/(1-p)), in nats: the divergence of two coins; infinite where p excludes q.

    Raises:
        InputError: q or p outside [0, 1].
    """
    _unit("rate", q)
    _unit("rate", p)
    if q == p:
        return 0.0
    if (p == 0.0 and q > 0.0) or (p == 1.0 and q < 1.0):
        return math.inf
    first = -q * _log_ratio(p, q) if q > 0.0 else 0.0
    second = -(1.0 - q) * _log_ratio(1.0 - p, 1.0 - q, q - p) if q < 1.0 else 0.0
    return max(0.0, first + second)


def kl_upper(q: float, c: float) -> float:
    """sup{p >= q : kl(q || p) <= c}: the upper kl inverse (Seeger 2002; Maurer 2004). c in nats per example."""
    _unit("empirical risk", q)
    _divergence(c)
    if q == 0.0:
        return min(1.0, -math.expm1(-c))
    return 1.0 if q == 1.0 else _first_above(lambda p: kl(q, p) > c, q, 1.0)


def kl_lower(q: float, c: float) -> float:
    """inf{p <= q : kl(q || p) <= c}: the lower kl inverse (Seeger 2002; Maurer 2004). c in nats per example."""
    _unit("empirical risk", q)
    _divergence(c)
    if q == 1.0:
        return math.exp(-c)
    return 0.0 if q == 0.0 else _last_below(lambda p: kl(q, p) > c, q)


def occam_kl(error: float, n: int, delta: float = 0.05, bits: float = 0.0) -> float:
    """kl^-1(error, (K ln 2 + ln 1/delta) / n): Chernoff's bound with Occam's razor (Langford 2005, Corollary 3.7, 4.6).

    Holds for losses anywhere in [0, 1], errors being one case (Hoeffding 1963, Theorem 1); never below `binomial_upper`.
    """
    _counts(0, n)
    return kl_upper(error, nats(delta, bits) / n)


def occam_hoeffding(error: float, n: int, delta: float = 0.05, bits: float = 0.0) -> float:
    """error + sqrt((K ln 2 + ln 1/delta) / 2n), at most 1: McAllester (1999), Theorem 1 (Hoeffding 1963, Theorem 2)."""
    _unit("empirical risk", error)
    _counts(0, n)
    return min(1.0, error + math.sqrt(nats(delta, bits) / (2.0 * n)))


def pac_bayes_kl(error: float, n: int, divergence: float, delta: float = 0.05) -> float:
    """kl^-1(error, (KL(Q||P) + ln(2 sqrt n / delta)) / n) for a randomised predictor Q: Maurer (2004), Theorem 5.

    Args:
        error: mean empirical risk of Q, in [0, 1].
        divergence: KL(Q || P) in nats.
    """
    return kl_upper(error, _pac_bayes_price(n, divergence, delta) / n)


def pac_bayes_mcallester(error: float, n: int, divergence: float, delta: float = 0.05) -> float:
    """error + sqrt((KL(Q||P) + ln(2 sqrt n / delta)) / 2n), at most 1: McAllester's form with Maurer's (2004) constant."""
    _unit("empirical risk", error)
    return min(1.0, error + math.sqrt(_pac_bayes_price(n, divergence, delta) / (2.0 * n)))


def bounded_kl(mean: float, low: float, high: float, n: int, delta: float = 0.05, bits: float = 0.0) -> float:
    """low + (high-low) kl^-1((mean-low)/(high-low), ...): `occam_kl` for a loss in [low, high], in the loss's unit."""
    return low + (high - low) * occam_kl(_scaled(mean, low, high), n, delta, bits)


def bounded_hoeffding(mean: float, low: float, high: float, n: int, delta: float = 0.05, bits: float = 0.0) -> float:
    """mean + (high-low) sqrt((K ln 2 + ln 1/delta) / 2n), at most high: `occam_hoeffding` for a loss in [low, high]."""
    return low + (high - low) * occam_hoeffding(_scaled(mean, low, high), n, delta, bits)


def empirical_bernstein(
    mean: float, variance: float, low: float, high: float, n: int, delta: float = 0.05, bits: float = 0.0
) -> float:
    """mean + sqrt(2 V x / n) + 7 (high-low) x / (3 (n-1)), x = ln(2/delta) + K ln 2: Maurer & Pontil (2009), Theorem 4.

    Args:
        variance: the sample variance V (divisor n - 1), in the loss's unit squared.

    Raises:
        InputError: n < 2, a negative variance, or a mean outside [low, high].
    """
    _scaled(mean, low, high)
    _counts(0, n)
    if n < 2 or not (math.isfinite(variance) and variance >= 0.0):
        raise InputError(f"got n = {n} and variance {variance}, expected n >= 2 and a finite variance >= 0")
    x = nats(delta, bits) + LN2
    return min(high, mean + math.sqrt(2.0 * variance * x / n) + 7.0 * (high - low) * x / (3.0 * (n - 1)))


def relative_gap(train: float, evaluation: float) -> float:
    """Relative generalization gap (acc_train - acc_eval) / (1 - acc_eval): Aghajanyan et al. (2021), section 5.

    Raises:
        InputError: an accuracy outside [0, 1], or a perfect evaluation, where it is not defined.
    """
    _unit("training accuracy", train)
    _unit("evaluation accuracy", evaluation)
    if evaluation == 1.0:
        raise InputError(
            "got an evaluation accuracy of 1, where (train - eval) / (1 - eval) is 0 / 0: no gap to report"
        )
    return (train - evaluation) / (1.0 - evaluation)


def capacity_form(error: float, d: int, levels: int, n: int) -> float:
    """error + sqrt(d ln r / n): the O() of Arora et al. (2018), Theorem 2.1, as in Aghajanyan et al. (2021), Theorem 1.

    Its constant is taken as 1 and it has no delta: a quantity to compare tasks by, NOT a guarantee, and it may pass 1.
    """
    _unit("training error", error)
    _counts(0, n)
    if d < 0 or levels < 1:
        raise InputError(f"got d = {d} and {levels} levels, expected d >= 0 and at least 1 level")
    return error + math.sqrt(d * math.log(levels) / n)


def smoothed_range(alpha: float, vocabulary: int) -> tuple[float, float]:
    """Least and greatest bits per token under p_alpha = (1-alpha) p + alpha/V: Lotfi et al. (2024), prediction smoothing.

    Returns:
        (-log2(1 - alpha + alpha/V), log2(V/alpha)); their difference is Delta = log2(1 + (1-alpha) V/alpha).

    Raises:
        InputError: alpha outside (0, 1], where nothing bounds the loss, or fewer than 1 token.
    """
    if not 0.0 < alpha <= 1.0 or vocabulary < 1:
        raise InputError(
            f"got alpha = {alpha}, V = {vocabulary}; expected alpha in (0, 1], V >= 1: alpha = 0 has no bound"
        )
    return -math.log1p(-alpha * (1.0 - 1.0 / vocabulary)) / LN2, math.log2(vocabulary / alpha)


def bits_per_token(
    mean: float,
    alpha: float,
    vocabulary: int,
    documents: int,
    delta: float = 0.05,
    bits: float = 0.0,
    evaluated: int | None = None,
    form: Literal["kl", "hoeffding", "bernstein"] = "kl",
    variance: float = 0.0,
    among: int = 1,
) -> float:
    """Expected bits per token of a new document: Lotfi et al. (2024, SubLoRA), finite hypotheses with subsampling.

    The independent example is a document, its loss the mean of -log2 p_alpha over its tokens, in `smoothed_range`.
    When only m of n documents are evaluated, drawn uniformly after the hypothesis was fixed, the confidence is split,
    s = n/(n+m): first the n documents' mean is bounded from the m's with s delta, the larger share where there are fewer
    documents, then the expectation from that with (1-s) delta. "hoeffding" is the paper's form,
    mean + Delta (sqrt(. / 2n) + sqrt(. / 2m)); "kl" the tighter one. A hypothesis picked from several after the m were seen
    owes log2 of their number in the first step as well. "bernstein" is `empirical_bernstein` of all n, which is tightest where
    documents differ little; the form is chosen before the data are seen.

    Args:
        mean: mean bits per token over the evaluated documents.
        documents: n, the training documents.
        evaluated: m, or None for all.
        variance: the documents' sample variance, for "bernstein".
        among: how many hypotheses were evaluated on the m documents.

    Raises:
        InputError: a mean outside the range, m outside 1 ... n, or an unknown form; "bernstein" of fewer than all documents.
    """
    if form not in ("kl", "hoeffding", "bernstein"):
        raise unknown_name("form", form, ("kl", "hoeffding", "bernstein"))
    low, high = smoothed_range(alpha, vocabulary)
    _counts(0, documents)
    share, m = delta, documents if evaluated is None else evaluated
    if not 1 <= m <= documents:
        raise InputError(f"got {m} evaluated of {documents} documents, expected 1 ... {documents}")
    if form == "bernstein":
        if m < documents:
            raise InputError(
                f"got {m} of {documents} documents for the form 'bernstein', expected all: the variance of those not evaluated is not "
                "known. Take 'kl'"
            )
        return empirical_bernstein(mean, variance, low, high, documents, delta, bits)
    bound = bounded_kl if form == "kl" else bounded_hoeffding
    if m < documents:
        nats(delta)  # before it is split
        share = delta * m / (documents + m)
        mean = min(high, bound(mean, low, high, m, delta - share, choice_bits([among])))
    return min(high, bound(mean, low, high, documents, share, bits))


def _log_pmf(k: int, n: int, p: float) -> float:
    saddle = _stirling_error(n) - _stirling_error(k) - _stirling_error(n - k)
    return saddle - n * kl(k / n, p) + 0.5 * math.log(n / (2.0 * math.pi * k * (n - k)))


def _stirling_error(n: int) -> float:
    """ln n! - [(n + 1/2) ln n - n + ln(2 pi)/2], n >= 1."""
    if n < 16:
        return math.lgamma(n + 1.0) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2.0 * math.pi)
    square = float(n) * n
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / square) / square) / square) / n


def _tail_over_pmf(k: int, n: int, p: float) -> float:
    total, last, start = 1.0, 1.0, 0
    while start < k and last > 1e-17 * total:
        i = np.arange(start, min(k, start + _CHUNK), dtype=np.float64)
        terms = last * np.cumprod((k - i) / (n - k + 1.0 + i) * ((1.0 - p) / p))
        total, last, start = total + float(terms.sum()), float(terms[-1]), start + _CHUNK
    return total


def _first_above(refuted: Callable[[float], bool], low: float, high: float) -> float:
    """Bisection to neighbouring doubles; the refuted side is returned, so rounding never shrinks a bound."""
    for _ in range(200):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def _last_below(refuted: Callable[[float], bool], high: float) -> float:
    low = 0.0
    for _ in range(1100):  # down to the least double
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _log_ratio(top: float, bottom: float, difference: float | None = None) -> float:
    """ln(top / bottom), with all digits where the two are close; `difference` is top - bottom, where known better."""
    change = (top - bottom if difference is None else difference) / bottom
    return math.log1p(change) if abs(change) < 0.5 else math.log(top) - math.log(bottom)


def _pac_bayes_price(n: int, divergence: float, delta: float) -> float:
    _counts(0, n)
    _divergence(divergence)
    return divergence + math.log(2.0 * math.sqrt(n)) + nats(delta)


def _scaled(mean: float, low: float, high: float) -> float:
    if not (math.isfinite(low) and math.isfinite(high) and low <= mean <= high and low < high):
        raise InputError(
            f"got a mean loss {mean} in [{low}, {high}], expected low <= mean <= high: check the loss's range"
        )
    return min(1.0, max(0.0, (mean - low) / (high - low)))


def _counts(errors: int, n: int) -> None:
    if not (1 <= n < math.inf and 0 <= errors <= n and int(n) == n and int(errors) == errors):
        raise InputError(f"got {errors} errors among {n} examples, expected whole numbers, 0 <= errors <= n, n >= 1")


def _unit(what: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InputError(f"got {what} {value}, expected a number in [0, 1]: a share, not a percentage or a count")


def _divergence(c: float) -> None:
    if not (math.isfinite(c) and c >= 0.0):
        raise InputError(f"got a divergence of {c} nats, expected a finite number >= 0")
