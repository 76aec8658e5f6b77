"""What a low-data study gives: a comparison for each number of training examples."""

from __future__ import annotations

from dataclasses import dataclass

from d90.results.compare import Comparison
from d90.results.result import Result

__all__ = ["LowData"]


@dataclass(frozen=True)
class LowData(Result):
    """A comparison for each n, in their order; `counts` are the examples there really were."""

    model: str
    task: str
    counts: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    command: str = ""
