"""A row of a store's table of trials: what a trial gave, filed under what it is found by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from d90.files import Json
from d90.training.recipe import Recipe
from d90.training.result import TrialContext, TrialResult

__all__ = ["TrialRow", "json_object", "setting_of"]


@dataclass(frozen=True)
class TrialRow:
    """One trial in a store.

    Attributes:
        key: the hash of its recipe, its data and its base.
        stored_recipe: as it is stored, with what this version does not know; that of an objective (`d90.Study`) names P's seed.
        result: what it gave.
        stop_at: the threshold it would have stopped at; None: it was to run to its end.
        d: of its subspace; None where it has none.
        seed: of training.
        id, ended: given by the store: a number in the order of writing, and when it ended, in UTC.
    """

    key: str
    stored_recipe: Json
    result: TrialResult
    stop_at: float | None = None
    d: int | None = None
    seed: int = 0
    id: int = 0
    ended: str = ""

    @cached_property
    def recipe(self) -> Recipe:
        """How it was trained, as far as this version knows."""
        return Recipe.from_dict(self.stored_recipe)

    @property
    def setting(self) -> Json:
        """The recipe as JSON, but for method and seed: what trials that can be compared have in common."""
        return setting_of(self.stored_recipe)

    @property
    def projection_seed(self) -> int:
        """P's seed, of an objective's trial."""
        return int(self.stored_recipe.get("projection_seed", self.seed))

    @property
    def score(self) -> float:
        """The best of its evaluations."""
        return self.result.score

    @property
    def status(self) -> str:
        """How it ended."""
        return self.result.status

    @property
    def columns(self) -> tuple[Any, ...]:
        """The values of the table's columns from `key` to `context`."""
        body = (self.stored_recipe, self.result.to_dict(), self.result.context.to_dict())
        texts = (json.dumps(part, sort_keys=True) for part in body)
        return (self.key, self.stop_at, self.ended, self.d, self.seed, self.score, self.status, *texts)

    @classmethod
    def from_columns(cls, number: Any, columns: tuple[Any, ...], predictions: bytes | None) -> TrialRow:
        """What `columns` gave, in this version or an earlier one.

        Raises:
            TypeError, ValueError: something that d90 does not write.
        """
        key, stop_at, ended, d, seed, score, status, *texts = columns
        recipe, outcome, context = map(json_object, texts)
        expected: dict[str, tuple[object, tuple[type, ...]]] = {
            "key": (key, (str,)), "ended": (ended, (str,)), "status": (status, (str,)), "score": (score, (int, float)),
            "seed": (seed, (int,)), "stop_at": (stop_at, (int, float, type(None))), "d": (d, (int, type(None))),
            **{f"the recipe's {name}": (recipe.get(name), (str,)) for name in ("model", "task", "method")},
        }  # fmt: skip
        for name, (value, kinds) in expected.items():
            if not isinstance(value, kinds):
                raise TypeError(f"{name} of trial {number!s:.20} is {value!r:.40}")
        whole = {**outcome, "score": score, "status": status}
        result = TrialResult.from_dict(whole, TrialContext.from_dict(context), predictions or b"")
        row = cls(key, recipe, result, stop_at, d, seed, number, ended)
        Recipe.from_dict(recipe)
        return row


def setting_of(recipe: Json) -> Json:
    """A stored recipe as JSON reads it back, but for method and seed."""
    read = json_object(json.dumps(recipe))
    return {name: value for name, value in read.items() if name not in ("method", "seed")}


def json_object(text: Any) -> Json:
    """The object in a JSON text.

    Raises:
        TypeError, ValueError: there is none.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError(f"a row holds {type(found).__name__}, not an object")
    return found
