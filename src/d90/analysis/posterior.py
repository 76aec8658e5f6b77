"""A Gaussian over d numbers and what it is worth: PAC-Bayes for a predictor that is drawn.

    Q = N(mean, diag(sigma^2))         P = N(0, width^2)         width = 2^-j, one of `WIDTHS`
    KL(Q || P) = sum_i ln(width / sigma_i) + (sigma_i^2 + mean_i^2) / (2 width^2) - 1/2

For a temperature C that is fixed beforehand, all posteriors at once, with probability 1 - delta (Catoni 2007, theorem 1.2.6; Germain
et al. 2009, corollary 2.2):

    error of Q <= (1 - exp(-C r - (KL + ln 1/delta) / n)) / (1 - e^-C)          r the mean training error of Q's draws

and for one theta drawn from Q the same with ln dQ/dP(theta) in place of KL, theta's own errors in place of r (Rivasplata et al. 2020,
theorem 1; Viallard et al. 2021). The best of 16 temperatures costs 4 bits; at the best of all C this is the inverse of kl, which Maurer's
constant buys for ln(2 sqrt n), 8.4 bits of 30,000 examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d90.analysis.bounds import nats
from d90.errors import InputError

__all__ = ["TEMPERATURES", "WIDTHS", "Gaussian", "best_temperature", "catoni_upper", "sampled_upper"]

WIDTHS = tuple(2.0**-j for j in range(16))  # fixed; one of them is named in four bits
TEMPERATURES = tuple(4 * 2 ** (-j / 2) for j in range(16))  # fixed; one of them is named in four bits
STAKES = tuple(2 ** (-j / 2) for j in range(12))  # fixed; all of them are bet, in equal parts
MAX_NUMBERS = 1 << 20


@dataclass(frozen=True)
class Gaussian:
    """Q: independent Gaussians over d numbers.

    Attributes:
        mean, sigma: (d,) float32; sigma > 0.
    """

    mean: Tensor
    sigma: Tensor

    def __post_init__(self) -> None:
        numbers = torch.cat([self.mean, self.sigma])
        if self.mean.shape != self.sigma.shape or self.mean.ndim != 1 or not len(self.mean):
            raise InputError(f"got means {self.mean.shape} and sigmas {self.sigma.shape}, expected (d,) each")
        if not bool(torch.isfinite(numbers).all()) or not bool((self.sigma > 0).all()):
            raise InputError("got a Gaussian with numbers that are not finite, or a sigma that is not above 0")

    def divergence(self, width: float) -> float:
        """KL(Q || N(0, width^2)) in nats."""
        mean, sigma = self.mean.double(), self.sigma.double()
        each = torch.log(width / sigma) + (sigma.square() + mean.square()) / (2 * width * width) - 0.5
        return max(0.0, float(each.sum()))

    def log_ratio(self, theta: Tensor, width: float) -> float:
        """ln dQ/dP(theta) in nats."""
        mean, sigma, at = self.mean.double(), self.sigma.double(), theta.double()
        each = torch.log(width / sigma) + at.square() / (2 * width * width) - ((at - mean) / sigma).square() / 2
        return float(each.sum())

    def width(self) -> int:
        """Which of `WIDTHS` is nearest to Q in divergence."""
        return min(range(len(WIDTHS)), key=lambda j: self.divergence(WIDTHS[j]))

    def to_hex(self) -> str:
        """mean, then sigma, as little-endian float32 in hex."""
        return np.concatenate([self.mean.numpy(), self.sigma.numpy()]).astype("<f4").tobytes().hex()

    @classmethod
    def from_hex(cls, text: str, d: int) -> Gaussian:
        """Read what `to_hex` wrote.

        Raises:
            InputError: not d means and sigmas.
        """
        try:
            content = bytes.fromhex(text)
        except ValueError:
            raise InputError(
                "the Gaussian is not written in hex; likely cause: an altered file, copy it again"
            ) from None
        if not 1 <= d <= MAX_NUMBERS or len(content) != 8 * d:
            raise InputError(
                f"the Gaussian has {len(content)} bytes, expected {8 * d} for d = {d}; likely cause: a truncated file"
            )
        numbers = torch.from_numpy(np.frombuffer(content, dtype="<f4").astype(np.float32))
        return cls(numbers[:d], numbers[d:])


def catoni_upper(error: float, n: int, temperature: float, delta: float = 0.05, bits: float = 0.0) -> float:
    """(1 - exp(-C r - (bits ln 2 + ln 1/delta) / n)) / (1 - e^-C), at most 1: an upper bound on the error of a drawn predictor.

    Args:
        error: r, in [0, 1].
        temperature: C > 0, fixed beforehand or paid for in `bits`.
        bits: everything else that is paid: KL(Q || P) / ln 2, or log2 dQ/dP of the draw.

    Raises:
        InputError: an error outside [0, 1], a temperature that is not above 0, or a delta no bound can be had from.
    """
    if not 0.0 <= error <= 1.0 or not temperature > 0.0:
        raise InputError(
            f"got an error of {error} and a temperature of {temperature}, expected 0 ... 1 and more than 0"
        )
    return min(1.0, math.expm1(-temperature * error - nats(delta, bits) / n) / math.expm1(-temperature))


def best_temperature(error: float, n: int, delta: float = 0.05, bits: float = 0.0) -> int:
    """Which of `TEMPERATURES` gives the smallest bound; `bits` holds what naming it costs."""
    return min(range(len(TEMPERATURES)), key=lambda j: catoni_upper(error, n, TEMPERATURES[j], delta, bits))


def sampled_upper(histogram: Sequence[int], delta: float) -> float:
    """An upper bound on the mean of independent shares k/b, which need not have the same mean: sup{m : W(m) < 1/delta},

        W(m) = mean over stakes s of prod_k (1 + s (m - k/b) / (1 - m))^h_k

    Each product's expectation is at most 1 at the true mean, for the geometric mean of its factors is at most their mean; so is W's, and
    Markov's inequality does the rest (Waudby-Smith & Ramdas 2024, with stakes that are fixed beforehand). W grows with m.

    Args:
        histogram: h_k for k = 0 ... b: of how many batches of b predictions k were wrong.

    Raises:
        InputError: no batch, a negative count, or a delta no bound can be had from.
    """
    counts = np.asarray(histogram, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2 or counts.min() < 0 or not counts.sum() > 0:
        raise InputError(f"got a histogram of {len(counts)} counts, expected those of 0 ... b errors, none negative")
    shares, price = np.arange(len(counts)) / (len(counts) - 1), nats(delta)
    seen = counts > 0
    mean = float((counts * shares).sum() / counts.sum())

    def log_wealth(m: float) -> float:
        with np.errstate(divide="ignore"):
            factors = np.log1p(np.maximum(np.outer(STAKES, m - shares[seen]) / (1.0 - m), -1.0))
        each = factors @ counts[seen]
        return float(np.logaddexp.reduce(each) - math.log(len(STAKES)))

    below, above = mean, 1.0
    for _ in range(200):
        middle = 0.5 * (below + above)
        if not below < middle < above:
            break
        below, above = (below, middle) if log_wealth(middle) >= price else (middle, above)
    return above


def temperature_for(error: float, n: int, bits: float) -> float:
    """The C at which an error and a price in bits are best bounded: what a posterior is trained against."""
    return TEMPERATURES[best_temperature(min(max(error, 1 / n), 0.5), n, 0.05, bits + math.log2(len(TEMPERATURES)))]
