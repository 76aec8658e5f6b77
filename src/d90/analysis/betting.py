"""An upper bound on a mean by betting: the wealth of a gambler who bets that the losses are smaller than m.

For losses X_t in [0, 1] that are independent with mean mu, and bets theta_t in [0, 1] that know X_1 ... X_{t-1} alone,

    W(m) = prod_t (1 + theta_t (m - X_t) / (1 - m)),        W >= 0,  E W(mu) = 1

so that by Markov's inequality W(mu) >= 1/delta has probability delta at most, and mu < sup{m : W(m) < 1/delta} but for that. Each
factor grows with m, so W does, and the bound is where it crosses. (Waudby-Smith & Ramdas 2024, JRSS B 86, sections 4.1 and 4.3, with
their predictable plug-in bet.) A hypothesis described in K bits is owed delta 2^-K, as in `d90.analysis.bounds`. The order of the
losses must be fixed before they are seen: theirs in the data.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from d90.analysis.bounds import nats
from d90.errors import InputError

__all__ = ["betting_upper"]


def betting_upper(losses: Tensor, low: float, high: float, delta: float = 0.05, bits: float = 0.0) -> float:
    """sup{m : W(m) < 2^K / delta}: an upper bound on the mean of independent losses in [low, high], in the loss's unit.

    Args:
        losses: (n,) one for each independent example.
        low, high: the loss's range, fixed beforehand.
        delta: the probability that the bound fails.
        bits: length K of the hypothesis in a prefix code fixed beforehand.

    Returns:
        A bound between the losses' mean and `high`.

    Raises:
        InputError: no losses, one outside the range or not finite, an empty range, or a delta no bound can be had from.
    """
    price = nats(delta, bits)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"got a loss in [{low}, {high}], expected finite numbers, low < high")
    x = losses.detach().double().cpu().numpy().reshape(-1)
    if not x.size or not np.isfinite(x).all() or x.min() < low - 1e-9 or x.max() > high + 1e-9:
        raise InputError(
            f"got {x.size} losses, expected at least one, all of them in [{low:g}, {high:g}]: check the loss's range"
        )
    scaled = np.clip((x - low) / (high - low), 0.0, 1.0)
    bets, below, above = _bets(scaled, price), float(scaled.mean()), 1.0
    for _ in range(200):
        middle = 0.5 * (below + above)
        if not below < middle < above:
            break
        below, above = (below, middle) if _log_wealth(scaled, bets, middle) >= price else (middle, above)
    return low + (high - low) * above


def _bets(x: NDArray[np.float64], price: float) -> NDArray[np.float64]:
    """theta_t = lambda_t (1 - m_t), at most 1: lambda_t = sqrt(2 price / (n v)) and m_t = mean + sqrt(2 v price / n), from the past.

    The past's mean and variance v begin with one loss of 1/2 and a variance of 1/4.
    """
    n, seen = len(x), np.arange(1, len(x) + 1, dtype=np.float64)
    mean = (0.5 + np.cumsum(x)) / (seen + 1)
    spread = (0.25 + np.cumsum((x - mean) ** 2)) / (seen + 1)
    mean, spread = np.concatenate([[0.5], mean[:-1]]), np.concatenate([[0.25], spread[:-1]])
    reached = np.minimum(1.0, mean + np.sqrt(2.0 * spread * price / n))
    return np.minimum(1.0, np.sqrt(2.0 * price / (n * spread)) * (1.0 - reached))


def _log_wealth(x: NDArray[np.float64], bets: NDArray[np.float64], m: float) -> float:
    """ln W(m), for m below 1."""
    with np.errstate(divide="ignore"):
        return float(np.log1p(np.maximum(bets * (m - x) / (1.0 - m), -1.0)).sum())
