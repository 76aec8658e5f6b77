"""d90 of one measurement beside its evaluation accuracy and its relative generalization gap."""

from __future__ import annotations

from dataclasses import dataclass

from d90.display import Display
from d90.results.result import Result

__all__ = ["Generalization", "GeneralizationRow"]


@dataclass(frozen=True)
class GeneralizationRow(Result):
    """One measurement.

    Attributes:
        d90, interval: as measured.
        baseline: full fine-tuning's score on the validation split, in `metric`; None where a number was given in its place.
        train, evaluation: accuracies of the tune at d90, on n training examples and on the validation split; None: not trained.
        gap: relative; None where it is not defined.
        capacity: sqrt(d90 ln r / n).
        note: why there is no gap.
    """

    model: str
    task: str
    method: str
    rule: str
    metric: str
    d90: int
    interval: tuple[int | None, int | None]
    baseline: float | None
    train: float | None = None
    evaluation: float | None = None
    n: int | None = None
    gap: float | None = None
    capacity: float | None = None
    note: str = ""


class Generalization(list[GeneralizationRow], Display):
    """The rows, a measurement each, the oldest first."""
