"""What a low-data study gives: a comparison for each number of training examples."""

from __future__ import annotations

from dataclasses import dataclass

from d90.display import Display
from d90.results.compare import Comparison, Entry
from d90.results.result import Result

__all__ = ["LowData"]


@dataclass(frozen=True)
class LowData(Result, Display):
    """A comparison for each number of training examples, in their order.

    Example:
        >>> found = d90.low_data(model, images, ["bitfit"], [20, 40], lr=0.01, least_steps=4, epochs=1)
        >>> found.counts
        (20, 40)

    Attributes:
        model, task: names as given.
        counts: the independent examples there really were: answers to one prompt, questions on one context are one together.
        comparisons: one for each of them.
        command: the command line that asked.
    """

    model: str
    task: str
    counts: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    command: str = ""

    def rows(self) -> dict[str, tuple[Entry | None, ...]]:
        """{method: its entry in each comparison}; None where it could not be trained on so many examples."""
        tables = [{entry.asked: entry for entry in comparison.entries} for comparison in self.comparisons]
        return {
            asked: tuple(table.get(asked) for table in tables)
            for asked in dict.fromkeys(name for table in tables for name in table)
        }
