"""What a comparison gives: an entry for each method, in the order they were asked for."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from d90.display import Display
from d90.files import Json
from d90.results.cost import Cost
from d90.results.result import Result
from d90.training.result import Forgotten

__all__ = ["Comparison", "Entry"]


@dataclass(frozen=True)
class Entry(Result):
    """One method.

    Attributes:
        method: its canonical text; `asked` as it was given.
        lr: the best rate; `rates`, each rate tried with its validation score, lowest first.
        validation, test: scores, one a seed; test is empty where the task has no such split.
        moved, trained, head, stored, added, adds: as `d90.methods.Counts`.
        seconds: of all its trials.
        cost: time and memory, None where they were not probed.
        front: whether it scores above chance and no other method stores as few numbers or fewer and scores higher.
        low, high: the interval of `mean`, at 95 %: seeds, pooled over the methods, and the size of the split it is measured on.
        forgetting: what its tunes forgot, the mean over the seeds with the standard error over seeds and examples; empty where it was not
            measured.
    """

    method: str
    asked: str
    lr: float
    rates: tuple[tuple[float, float], ...]
    validation: tuple[float, ...]
    test: tuple[float, ...]
    moved: int
    trained: int
    head: int
    stored: int
    added: int
    adds: str
    seconds: float
    cost: Cost | None = None
    front: bool = False
    low: float | None = None
    high: float | None = None
    forgetting: tuple[Forgotten, ...] = ()

    @property
    def scores(self) -> tuple[float, ...]:
        """What is reported: test where there is one, validation otherwise."""
        return self.test or self.validation

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class Comparison(Result, Display):
    """The entries in the order they were asked for, and what decides them.

    Example:
        >>> found = d90.compare(model, task, ["bitfit"], lr=0.01, epochs=1, costs=False)
        >>> [entry.method for entry in found.entries]
        ['bitfit']

    Attributes:
        model, task: names as given.
        metric, split: what scores the entries, on which split ("test", or "validation" where there is none).
        chance: the score of the best constant guess.
        seeds: trials of each method at its best rate.
        entries: a row for each method, in the order they were asked for.
        recipe: of every trial but for method, seed and lr.
        definitions: rates that were tried, seeds, fingerprints, notes and versions.
        command: the command line that asked.
    """

    model: str
    task: str
    metric: str
    split: str
    chance: float
    seeds: int
    entries: tuple[Entry, ...]
    recipe: Json
    definitions: Json
    command: str = ""
