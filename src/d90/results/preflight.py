"""The memory that a run needs, as `d90.preflight` finds it."""

from __future__ import annotations

from dataclasses import dataclass

from d90.results.result import Result

__all__ = ["MemoryParts", "Preflight"]


@dataclass(frozen=True)
class MemoryParts(Result):
    """Bytes of each thing that a run holds.

    Attributes:
        weights: the model's, and its buffers.
        first: the weights before training, of those that move: `release()` puts them back, a subspace writes theta_0 + Delta from them.
        optimizer: Adam's two moments.
        best: the best evaluation's copy of what is trained.
        projection: what P keeps.
        step: activations, gradients and temporary tensors at the peak of a training step.
        evaluation: activations and temporary tensors at the peak of an evaluated batch.
    """

    weights: int
    first: int
    optimizer: int
    best: int
    projection: int
    step: int
    evaluation: int

    @property
    def held(self) -> int:
        """Between two steps."""
        return self.weights + self.first + self.optimizer + self.best + self.projection

    @property
    def peak(self) -> int:
        """At most: in a step, in an evaluation, or where a better evaluation's weights are copied beside those before."""
        return self.held + max(self.step, self.evaluation, self.best)


@dataclass(frozen=True)
class Preflight(Result):
    """What a run needs, known before anything is loaded.

    Example:
        >>> found = d90.preflight("fc", "full@d=100", batch="64")
        >>> found.parts.peak == found.peak
        True

    Attributes:
        model, method: as they were given, the method in full.
        kind, device, precision, dtype: of the run; `dtype` is the weights'.
        batch, tokens: examples in a batch and tokens of each; of images the values of each.
        count, moved, trained: weights of the model, those that move, and the numbers that an optimizer holds.
        parts: bytes, by what they are for.
        peak: bytes at most, beyond those of the program itself.
        process: bytes of the program with its libraries, as resident here; None where the system does not say.
        available: bytes of memory that the device has; None for one that is not here.
        command: the command line that asked.
    """

    model: str
    method: str
    kind: str
    device: str
    precision: str
    dtype: str
    batch: int
    tokens: int
    count: int
    moved: int
    trained: int
    parts: MemoryParts
    peak: int
    process: int | None
    available: int | None
    command: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether it fits into the device's memory; None where that is not known."""
        own = (self.process or 0) if self.device == "cpu" else 0
        return None if self.available is None else self.peak + own <= self.available
