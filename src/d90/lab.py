"""The bench of every study: trials run against a store. It looks there first, trains, writes."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from d90._version import __version__
from d90.methods import Spec
from d90.models import Model
from d90.progress import Progress
from d90.recipe import Recipe
from d90.sweep.packed import pack, unpack
from d90.sweep.store import Store
from d90.tasks import Task
from d90.training import Data, Hopeless, evaluate, fit, open_model

__all__ = ["Lab", "versions"]


class Lab:
    """Runs trials against the store: looks there first, trains, writes."""

    def __init__(
        self,
        model: str | Model,
        task: Task,
        recipe: Recipe,
        store: Store,
        told: Progress,
        log: str | os.PathLike[str] | None,
    ) -> None:
        self.task, self.store, self._told, self._log = task, store, told, log
        self._given, self._recipe = model, recipe
        self._data: dict[int, Data] = {}
        self.trials: list[tuple[Spec, Recipe, dict[str, Any]]] = []
        self.study: str | None = None  # the study that trials are noted for
        self.seconds = 0.0

    def data(self, seed: int) -> Data:
        """The task encoded for the model with this seed's fresh weights; one is held at a time, the encoding is shared."""
        if seed not in self._data:
            model = open_model(self._given, self.task, replace(self._recipe, seed=seed))
            old = next(iter(self._data.values()), None)
            self._data = {seed: old.for_model(model) if old else Data(model, self.task)}
        return self._data[seed]

    def model(self, seed: int) -> Model:
        """The model with this seed's fresh weights."""
        return self.data(seed).model

    def zero_score(self, spec: Spec) -> float:
        """The untrained model's score on the validation split."""
        return evaluate(self.data(self._recipe.seed), "validation", "fp32")[0]

    def trial(
        self,
        spec: Spec,
        recipe: Recipe,
        stop_at: float | None = None,
        test: bool = False,
        hopeless: Hopeless | None = None,
        predictions: bool = False,
    ) -> dict[str, Any]:
        """One trial's outcome, from the store or by training.

        With `test`, the best evaluation's score on the test split; with `predictions`, a stored trial without them is
        trained again.
        """
        data = self.data(recipe.seed)
        key = self.key(recipe)
        label = f"{spec} seed {recipe.seed}"
        stored = self.store.find(key, stop_at)
        lacks = stored and ((test and stored.outcome.get("test") is None) or (predictions and not stored.predictions))
        if stored is None or lacks:
            best: list[Tensor] = []
            outcome, laid = fit(
                data, spec, recipe, stop_at=stop_at, progress=self._told, test=test, hopeless=hopeless, best=best.append
            )
            laid.release()
            body = asdict(outcome)
            context = {"task": self.task.fingerprint, "base": data.model.fingerprint, **versions()}
            d = spec.space.d if spec.space else None
            packed = pack(best[-1].numpy()) if best else None
            self.store.add(key, stop_at, d, recipe.seed, asdict(recipe), body, context, packed, self.study)
            self._write_line(asdict(recipe), body)
            told = ""
        else:
            body, told = stored.outcome, ", stored"
            if self.study is not None:
                self.store.note(self.study, key)
        self._told.trial_ended(label, f"{_words(body)} in {body['seconds']:.0f} s{told}")
        self.seconds += body["seconds"]
        self.trials.append((spec, recipe, body))
        return body

    def key(self, recipe: Recipe) -> str:
        """The trial's key in the store; fresh weights are no part of the base's fingerprint, so any seed's model will do."""
        held = next(iter(self._data.values()), None) or self.data(recipe.seed)
        return recipe.key(self.task.fingerprint, held.model.fingerprint)

    def note(self, study: str) -> None:
        """Note that every trial so far was made for a study."""
        for _, recipe, _ in self.trials:
            self.store.note(study, self.key(recipe))

    def has_predictions(self, recipe: Recipe) -> bool:
        """Whether the store has this trial, run to its end, with its predictions."""
        stored = self.store.find(self.key(recipe), None)
        return stored is not None and bool(stored.predictions)

    def predictions(self, recipe: Recipe) -> NDArray[Any]:
        """A stored trial's predictions on the validation split, by the best of its evaluations."""
        stored = self.store.find(self.key(recipe), None)
        if stored is None or not stored.predictions:
            raise LookupError(f"no predictions of {recipe.method}, seed {recipe.seed}")
        return unpack(stored.predictions)

    def _write_line(self, recipe: dict[str, Any], outcome: dict[str, Any]) -> None:
        if self._log is not None:
            Path(self._log).parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(json.dumps({**recipe, **outcome}) + "\n")


def _words(outcome: dict[str, Any]) -> str:
    if outcome["status"] == "diverged":
        return f"diverged at step {outcome['steps']} (loss not finite), best before {outcome['score']:.4f}"
    sign = {"passed": "at least ", "hopeless": "given up at "}.get(outcome["status"], "")
    return f"{sign}{outcome['score']:.4f}"


def versions() -> dict[str, Any]:
    """Versions and machine, as recorded with every trial."""
    return {
        "d90": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
