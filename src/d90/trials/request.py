"""A trial that is wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from d90.methods import Spec
from d90.search.pruning import Pruner
from d90.training.recipe import Recipe

__all__ = ["TrialRequest"]


@dataclass(frozen=True)
class TrialRequest:
    """A trial that is wanted.

    Attributes:
        spec, recipe: what decides it.
        stop_at: the threshold it may stop at; `pruner` says when it is given up.
        test: with the best evaluation's score on the test split.
        predictions: with those of the best evaluation; a stored trial without them is trained again.
        pause: a reading leaves its state, from which the whole trial goes on; `TrialRunner.drop_paused` removes it.
        keep: where the tune is written that the trial ends with; a stored trial writes none.
    """

    spec: Spec
    recipe: Recipe
    stop_at: float | None = None
    pruner: Pruner | None = None
    test: bool = False
    predictions: bool = False
    pause: bool = False
    keep: Path | None = None

    @property
    def whole(self) -> TrialRequest:
        """The same trial to the end of its schedule."""
        return replace(self, recipe=replace(self.recipe, until=1.0), pause=False)
