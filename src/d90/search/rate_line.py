"""The best learning rate of a family of methods as a line over ln size, and the optimum that a few readings at one size show.

    ln rate(size) = ln rate(pivot) - a (ln size - ln pivot)        a ~ N(exponent, deviation^2)

LoRA's best rate falls with the rank about as r^-1/2 where alpha = r; a subspace's does not move with d, by the step rule. Each size
whose optimum was read is a point; line and exponent are their posterior, so that two sizes teach the third. Rates lie on rungs of
factor sqrt 3 around a guess: a search scans by 3 and refines by half-steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy

__all__ = ["RATIO", "RateLine", "best_rung"]

RATIO = math.sqrt(3.0)  # of neighbouring rungs
SCATTER = 0.35  # of one size's optimum, as a few readings show it, about the line; in ln rate
SPREAD = 1.5  # of the first guess


@dataclass
class RateLine:
    """A family's line.

    Attributes:
        guess: the rate at `pivot` before anything is read; rung 0.
        pivot: the size at which the guess is made.
        exponent, deviation: of a, before anything is read.
        points: the rung that is best at each size that was read.
    """

    guess: float
    pivot: float = 1.0
    exponent: float = 0.5
    deviation: float = 0.2
    points: dict[float, float] = field(default_factory=dict)

    def rate(self, rung: float) -> float:
        """The rate of a rung, in two or three digits: what is trained is what is printed."""
        return float(f"{self.guess * RATIO**rung:.3g}")

    def at(self, size: float) -> tuple[float, float]:
        """(mean, standard deviation) of the best rung at a size."""
        mean, covariance = self._posterior()
        row = self._row(size)
        return float(row @ mean), float(numpy.sqrt(row @ covariance @ row))

    @property
    def fall(self) -> tuple[float, float]:
        """(mean, standard deviation) of the exponent a."""
        mean, covariance = self._posterior()
        return float(mean[1]), float(numpy.sqrt(covariance[1, 1]))

    def learn(self, size: float, rung: float) -> None:
        """Note the best rung of a size."""
        self.points[size] = rung

    def _row(self, size: float) -> numpy.ndarray:
        """Of the unknowns, rung at the pivot and exponent, what a size's rung is."""
        return numpy.array([1.0, -math.log(size / self.pivot) / math.log(RATIO)])

    def _posterior(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        unit = math.log(RATIO)
        precision = numpy.diag([(unit / SPREAD) ** 2, 1 / self.deviation**2])
        right = precision @ numpy.array([0.0, self.exponent])
        for size, rung in self.points.items():
            row, weight = self._row(size), (unit / SCATTER) ** 2
            precision = precision + weight * numpy.outer(row, row)
            right = right + weight * rung * row
        covariance = numpy.linalg.inv(precision)
        return covariance @ right, covariance


def best_rung(losses: Mapping[int, float | None]) -> tuple[float, bool]:
    """(the rung of the lowest loss, by a parabola in ln loss through the best reading and its neighbours; whether it is bracketed).

    A reading that diverged is above all others. Of readings on one side alone the best one is taken as it is.

    Args:
        losses: by rung, None where the reading diverged; at least one did not.
    """
    sound = {rung: loss for rung, loss in losses.items() if loss is not None}
    best = min(sound, key=lambda rung: (sound[rung], abs(rung)))
    below, above = [r for r in losses if r < best], [r for r in losses if r > best]
    if not below or not above:
        return float(best), False
    low, high = max(below), min(above)
    if low not in sound or high not in sound or min(sound.values()) <= 0:
        return float(best), True
    x = numpy.array([low, best, high], dtype=float)
    y = numpy.log([sound[low], sound[best], sound[high]])
    curvature, slope, _ = numpy.polyfit(x - best, y, 2)
    if curvature <= 0:
        return float(best), True
    shift = -slope / (2 * curvature)
    return float(best + min(max(shift, (low - best) / 2), (high - best) / 2)), True
