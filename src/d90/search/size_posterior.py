"""What whole runs at a few sizes say of all sizes of a family: how far each falls short of the reference, and which is enough.

    gap(s) = B + A (s^-b - s_ref^-b)        A >= 0: more never hurts

B is 0 but for noise where the reference is of the same family, wide otherwise. For each b of a few the pair (A, B) is Gaussian by
conjugacy; draws of it, weighed by their evidence, are the posterior. Noise is shared by all families: pairing over examples gives each
gap its standard error, the seeds' deviation is pooled over whatever was repeated, with a prior worth three degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

__all__ = ["SeedNoise", "SizePosterior"]

POWERS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
DRAWS = 400  # for each power
AMPLITUDE = (0.1, 0.4)  # mean and deviation of A, as shares of the gain
OFFSET, FOREIGN = 0.01, 0.2  # deviation of B in the reference's own family, and in another
MISFIT = 0.002  # of one size about the curve


@dataclass(frozen=True)
class SeedNoise:
    """The deviation of a score over seeds: what was expected, and what repeats have shown.

    Attributes:
        expected: before any repeat.
        squares, freedom: of scores about the mean of their repeats.
    """

    expected: float
    squares: float = 0.0
    freedom: int = 0
    weight: float = 3.0

    @classmethod
    def of(cls, expected: float, groups: Sequence[Sequence[float]]) -> SeedNoise:
        """From the scores of trials that differ in their seeds alone."""
        squares = math.fsum((score - math.fsum(group) / len(group)) ** 2 for group in groups for score in group)
        return cls(expected, squares, sum(len(group) - 1 for group in groups))

    @property
    def variance(self) -> float:
        """Of one run's score."""
        return (self.weight * self.expected**2 + self.squares) / (self.weight + self.freedom)


class SizePosterior:
    """Gaps of every size of a family.

    Args:
        sizes: of the family, the smallest first.
        seen: by size, (gap, its standard error) of whole runs.
        gain: of the reference over the untrained model: the scale of everything.
        reference: its size in this family; None where it is of another.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        seen: Mapping[float, tuple[float, float]],
        gain: float,
        reference: float | None,
    ) -> None:
        self.sizes, self.seen = tuple(sizes), dict(seen)
        self.draws, self.weights = self._drawn(gain, reference)

    def enough(self, size: float, margin: float) -> float:
        """The probability that a size's gap is at most the margin: of one that ran, by its own runs; of others, by the curve."""
        if size in self.seen:
            gap, error = self.seen[size]
            return 0.5 * math.erfc((gap - margin) / max(error, 1e-300) / math.sqrt(2)) if math.isfinite(gap) else 0.0
        column = self.draws[:, self.sizes.index(size)]
        return float(self.weights[column <= margin].sum())

    def range_of_enough(self, margin: float, coverage: float = 0.9) -> tuple[float | None, float | None]:
        """The sizes between which the smallest that is enough lies; None at an end that may lie beyond the largest."""
        chances = [self.enough(size, margin) for size in self.sizes]
        rising = numpy.maximum.accumulate(chances)
        tail = (1 - coverage) / 2
        low = next((s for s, p in zip(self.sizes, rising, strict=True) if p > tail), None)
        high = next((s for s, p in zip(self.sizes, rising, strict=True) if p >= 1 - tail), None)
        return low, high

    def _drawn(self, gain: float, reference: float | None) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        """(gaps (draws, sizes), their weights)."""
        finite = {size: pair for size, pair in self.seen.items() if math.isfinite(pair[0])}
        y = numpy.array([gap for gap, _ in finite.values()])
        noise = numpy.array([error**2 + (MISFIT * gain) ** 2 for _, error in finite.values()])
        offset = OFFSET if reference is not None else FOREIGN
        before = numpy.array([0.0, AMPLITUDE[0] * gain])
        covariance = numpy.diag([(offset * gain) ** 2, (AMPLITUDE[1] * gain) ** 2])
        normal = numpy.random.default_rng(0).standard_normal((DRAWS, 2))
        gaps, logs = [], []
        for power in POWERS:
            shift = 0.0 if reference is None else reference**-power
            rows = numpy.array([[1.0, size**-power - shift] for size in finite]).reshape(-1, 2)
            outer = rows @ covariance @ rows.T + numpy.diag(noise)
            gain_matrix = numpy.linalg.solve(outer, rows @ covariance).T if len(y) else numpy.zeros((2, 0))
            residual = y - rows @ before
            mean = before + gain_matrix @ residual
            after = covariance - gain_matrix @ rows @ covariance
            values = mean + normal @ numpy.linalg.cholesky(after + 1e-18 * numpy.eye(2) * gain**2).T
            evidence = 0.0
            if len(y):
                sign, determinant = numpy.linalg.slogdet(outer)
                evidence = -0.5 * float(residual @ numpy.linalg.solve(outer, residual) + sign * determinant)
            columns = numpy.array([[1.0, size**-power - shift] for size in self.sizes])
            gaps.append(values @ columns.T)
            logs.append(numpy.where(values[:, 1] >= 0, evidence, -numpy.inf))
        drawn, log = numpy.concatenate(gaps), numpy.concatenate(logs)
        top = log.max()
        weights = numpy.exp(log - top) if math.isfinite(top) else numpy.ones_like(log)
        return drawn, weights / weights.sum()
