"""How scores rise with d: a fixed set of random curves, each as likely as the next before any trial has spoken.

    r(ln d - c) = share where d is d90

r goes from near 0 (chance) to near 1 (the full score). Each is a sum of one to three components (logistic, Gompertz, power tail,
ramp) at scales from sharp to two decades wide; some keep a raised floor, some end above or below the full score, dip or decline
beyond the crossing, or rest on a plateau just under the threshold. c is where a curve first reaches the share that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import special

__all__ = ["Rises", "rises"]

Array = NDArray[Any]
COUNT = 2000
STEP = 0.1  # of ln d, between the values that are kept
REACH = 22.0  # so far each curve is known on both sides of its crossing
RAW = 32.0
KINDS = ("logistic", "gompertz", "power", "ramp")
KIND_SHARES = (0.45, 0.20, 0.25, 0.10)
COMPONENTS = (0.6, 0.28, 0.12)  # how often a curve has one, two, three
PLATEAUS = 0.06  # how often a curve rests just under the threshold
DECLINES = 0.05  # how often one loses some beyond its crossing


@dataclass(frozen=True)
class Rises:
    """The curves: `values[i, k]` is curve k at ln d - c = -REACH + i STEP; `share` is what each reaches at 0."""

    share: float
    values: Array
    full: Array  # (COUNT,) a standard normal number for each curve: where the full score lies about the mean of the baselines

    def places(self, offset: Array) -> tuple[Array, Array]:
        """The rows below values of ln d - c, and how far each value lies towards the next row (a column)."""
        place = numpy.clip((offset + REACH) / STEP, 0, len(self.values) - 1.001)
        below = place.astype(numpy.int64)
        return below, (place - below).astype(numpy.float32)[:, None]

    def pairs(self, offset: Array, curve: Array) -> Array:
        """Curve by curve: at one value of ln d - c each."""
        place = numpy.clip((offset + REACH) / STEP, 0, len(self.values) - 1.001)
        below = place.astype(numpy.int64)
        low, high = self.values[below, curve], self.values[below + 1, curve]
        return numpy.asarray(low + (place - below) * (high - low))


@lru_cache(maxsize=8)
def rises(share: float) -> Rises:
    """The curves anchored where they first reach `share` of what there is to gain."""
    draw = numpy.random.default_rng(20)
    u = numpy.arange(-RAW, RAW + STEP / 2, STEP, dtype=numpy.float32)
    raw = _components(draw, u)
    plateau = numpy.arange(COUNT) < round(PLATEAUS * COUNT)
    raw[plateau] = _plateaus(draw, u, share, int(plateau.sum()))
    ends = share + (1 - share) * numpy.exp(draw.normal(0, 0.4, COUNT))
    ends = numpy.where(draw.random(COUNT) < 0.4, ends, 1.0)
    floors = numpy.where(draw.random(COUNT) < 0.3, draw.uniform(0, 0.6, COUNT) * share, 0.0)
    floors[plateau] = 0.0
    raw = floors[:, None].astype(numpy.float32) + (ends - floors)[:, None].astype(numpy.float32) * raw
    crossing = _first(u, raw, share)
    declines = numpy.flatnonzero(draw.random(COUNT) < DECLINES)
    raw[declines] -= _declines(draw, u, crossing[declines])
    full = draw.permutation(special.ndtri((numpy.arange(COUNT) + 0.5) / COUNT))
    grid = numpy.arange(-REACH, REACH + STEP / 2, STEP)
    places = numpy.clip((grid[:, None] + crossing[None] + RAW) / STEP, 0, len(u) - 1.001).astype(numpy.float32)
    below = places.astype(numpy.int32)
    flat, first = raw.ravel(), (numpy.arange(COUNT, dtype=numpy.int32) * len(u))[None]
    low, high = flat.take(below + first), flat.take(below + first + 1)
    return Rises(share, low + (places - below) * (high - low), full)


def _first(u: Array, raw: Array, share: float) -> Array:
    """Where each curve first reaches the share."""
    first = numpy.argmax(raw >= share, axis=1).clip(1)
    rows = numpy.arange(len(raw))
    low, high = raw[rows, first - 1].astype(float), raw[rows, first].astype(float)
    part = numpy.divide(share - low, high - low, out=numpy.ones(len(raw)), where=high > low)
    return numpy.asarray(u[first - 1] + numpy.clip(part, 0, 1) * STEP)


def _components(draw: numpy.random.Generator, u: Array) -> Array:
    """Sums of one to three rises from 0 to 1."""
    number = draw.choice([1, 2, 3], COUNT, p=COMPONENTS)
    total = numpy.zeros((COUNT, len(u)), dtype=numpy.float32)
    weights = draw.gamma(1.0, size=(COUNT, 3)) * (numpy.arange(3)[None] < number[:, None])
    weights /= weights.sum(1, keepdims=True)
    for part in range(3):
        kind = draw.choice(4, COUNT, p=KIND_SHARES)
        scale = numpy.exp(draw.uniform(numpy.log(0.07), numpy.log(2.5), COUNT))
        exponent = numpy.exp(draw.uniform(numpy.log(0.12), numpy.log(1.5), COUNT))
        width, offset = draw.uniform(1, 14, COUNT), draw.normal(0, 2.5, COUNT)
        for index in range(4):
            some = numpy.flatnonzero((kind == index) & (weights[:, part] > 0))
            z = u[None] - offset[some, None].astype(numpy.float32)
            wide = (scale, scale, exponent, width)[index][some, None].astype(numpy.float32)
            total[some] += weights[some, part, None].astype(numpy.float32) * _rise(KINDS[index], z, wide)
    return total


def _rise(kind: str, z: Array, wide: Array) -> Array:
    """One component."""
    if kind == "logistic":
        return numpy.asarray(0.5 + 0.5 * numpy.tanh(z / (2 * wide)))
    if kind == "gompertz":
        return numpy.asarray(numpy.exp(-numpy.exp(numpy.clip(-z / wide, -60, 60))))
    if kind == "power":
        return numpy.asarray(1 - numpy.exp(-wide * numpy.logaddexp(0, z)))
    return numpy.asarray(numpy.clip(z / wide + 0.5, 0, 1))


def _plateaus(draw: numpy.random.Generator, u: Array, share: float, count: int) -> Array:
    """A first rise up to just under the share, half a decade to four of nearly nothing, and the rest."""
    under = share * (1 - numpy.exp(draw.uniform(numpy.log(0.015), numpy.log(0.15), count)))[:, None]
    gap = draw.uniform(1.5, 7.0, count)[:, None]
    sharp = [numpy.exp(draw.uniform(numpy.log(0.15), numpy.log(1.2), count))[:, None] for _ in range(2)]
    first, second = special.expit((u[None] + gap) / sharp[0]), special.expit((u[None]) / sharp[1])
    return numpy.asarray(under * first + (1 - under) * second, dtype=numpy.float32)


def _declines(draw: numpy.random.Generator, u: Array, crossing: Array) -> Array:
    """What a curve loses beyond its crossing, for good or for a while."""
    count = len(crossing)
    depth, away = draw.uniform(0.01, 0.12, count)[:, None], draw.uniform(0.7, 6.0, count)[:, None]
    z = u[None] - crossing[:, None] - away
    wide = draw.uniform(0.2, 1.2, count)[:, None]
    for_good = (draw.random(count) < 0.5)[:, None]
    lost = depth * numpy.where(for_good, special.expit(z / wide), numpy.exp(-0.5 * (z / wide) ** 2))
    return numpy.asarray(numpy.where(z + away > 0, lost, 0.0), dtype=numpy.float32)
