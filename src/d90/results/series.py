"""What a trajectory or a family gives: d90 of several models on several tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from d90.display import Display
from d90.files import Json
from d90.results.result import Result
from d90.search.summary import ends_in_words

__all__ = ["Cell", "Series"]


@dataclass(frozen=True)
class Cell(Result):
    """One model on one task.

    Attributes:
        model, task: as given.
        x: pretraining step of a trajectory, weights of a family.
        target: "last" or "own".
        status, d90, interval: of the measurement; "failed" with `error` where there is none.
        score: full fine-tuning's own score on this model.
        threshold, chance: what was to be reached, and what needs no training.
        metric: what these are scores of; "" where nothing was measured, or by a version that did not say.
    """

    model: str
    task: str
    x: int
    target: str
    status: str
    d90: int | None
    interval: tuple[int | None, int | None]
    score: float | None
    threshold: float | None
    chance: float | None
    error: str = ""
    metric: str = ""

    @property
    def ends(self) -> str:
        """The interval in words, as "210 to 330"; empty where there is none."""
        return ends_in_words(*self.interval) if any(self.interval) else ""


@dataclass(frozen=True)
class Series(Result, Display):
    """A study of several models; `givers` names, for each task, the model whose target counts for all.

    Example:
        >>> found = d90.family(models, [text_task], rule="gain", lr=0.01, epochs=1, budget=2, start=32)
        >>> [cell.model for cell in found.cells] == models
        True

    Attributes:
        kind: "trajectory" or "family".
        method, rule: what was measured.
        xlabel: what the cells' `x` is: a pretraining step, or weights of the model.
        cells: one for each model, task and target.
        definitions: options that were given, the target, versions.
        command: the command line that asked.
        givers: the model whose target counts for all, by task.
    """

    kind: str
    method: str
    rule: str
    xlabel: str
    cells: tuple[Cell, ...]
    definitions: Json
    command: str = ""
    givers: dict[str, str] = field(default_factory=dict)

    def curve(self, task: str, target: str) -> list[tuple[int, int]]:
        """(x, d90) where d90 was found, by x."""
        chosen = [c for c in self.cells if (c.task, c.target) == (task, target) and c.d90 is not None]
        return sorted((c.x, c.d90) for c in chosen if c.d90 is not None)
