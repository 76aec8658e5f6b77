"""The bench of every study: trials run against a store. It looks there first, trains, writes."""

from __future__ import annotations

import base64
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from d90._version import __version__
from d90.errors import InputError, RunFailed
from d90.methods import Spec, parse
from d90.models.loading import Model
from d90.search.pruning import Pruner
from d90.subspace.fingerprint import NOT_COVERED
from d90.tasks import Task
from d90.tasks.metrics import LOSS
from d90.training.batches import device_of
from d90.training.checkpoint import Checkpoint
from d90.training.device import best_device
from d90.training.failures import failed_outcome, free_memory, out_of_memory
from d90.training.loop import Data, evaluate, fit, open_model, open_task, predict
from d90.training.precision import own_precision, precision_of
from d90.training.progress import Progress
from d90.training.recipe import Recipe, trial_key, trial_label
from d90.training.run import Run
from d90.training.steps import RunControl
from d90.trials.executor import Executor, Job
from d90.trials.options import RunOptions
from d90.trials.predictions import pack, unpack
from d90.trials.store import Stored, digest
from d90.trials.words import outcome_in_words

__all__ = ["Made", "TrialRequest", "TrialRunner", "check_sendable", "run_job", "versions"]


@dataclass(frozen=True)
class TrialRequest:
    """A trial that is wanted.

    Attributes:
        spec, recipe: what decides it.
        stop_at: the threshold it may stop at; `hopeless`, when it is given up.
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


@dataclass(frozen=True)
class Made:
    """What a trained trial gave, as it is stored; one that memory did not suffice for is told, and not stored."""

    outcome: dict[str, Any]
    context: dict[str, Any]
    predictions: bytes

    @property
    def lasting(self) -> bool:
        """Whether the trial would give the same again."""
        return bool(self.outcome["status"] != "failed")


class TrialRunner:
    """Runs trials against the store: looks there first, trains (here, or where the executor does), writes.

    Args:
        model, task: of every trial.
        recipe: how the first is trained; fresh weights and the precision are decided by it.
        run: the store, the log, the executor, and who is told.
    """

    def __init__(self, model: str | Model, task: Task, recipe: Recipe, run: RunOptions) -> None:
        self.task, self.store, self._progress, self._log = task, run.open_store(), run.told, run.log
        self._given, self._recipe, self._executor = model, recipe, run.executor
        self._data: dict[int, Data] = {}
        self.trials: list[tuple[Spec, Recipe, dict[str, Any]]] = []
        self._keys: list[str] = []  # under which these are stored
        self.study: str | None = None  # the study that trials are noted for
        self._said_earlier = False

    @property
    def sends(self) -> bool:
        """Whether several trials run at once."""
        return self._executor is not None and self._executor.slots > 1

    def data(self, seed: int) -> Data:
        """The task encoded for the model with this seed's fresh weights; one is held at a time, the encoding is shared."""
        if seed not in self._data:
            model = open_model(self._given, self.task, replace(self._recipe, seed=seed), best_device())
            old = next(iter(self._data.values()), None)
            self._data = {seed: old.for_model(model) if old else self._new_data(model)}
            if old is None:
                for note in model.notes:
                    self._progress.note(note)
        return self._data[seed]

    def _new_data(self, model: Model) -> Data:
        return Data(model, self.task, True, self._decided(model), self.store.texts)

    def _decided(self, model: Model) -> str | None:
        """What precision "auto" came to in the stored trials of this model on this task: it holds for all of them."""
        if self._recipe.precision != "auto":
            return None
        bases = {model.fingerprint, model.earlier} - {""}
        rows = (row for row in self.store.trials() if row.recipe.get("precision") == "auto")
        found = (
            row.outcome.get("precision")
            for row in rows
            if row.context.get("task") == self.task.fingerprint and row.context.get("base") in bases
        )
        return next((str(precision) for precision in found if precision), None)

    def model(self, seed: int) -> Model:
        """The model with this seed's fresh weights."""
        return self.data(seed).model

    def zero_score(self) -> float:
        """The untrained model's score on the validation split."""
        return evaluate(
            self.data(self._recipe.seed), "validation", own_precision(self.model(self._recipe.seed).module)
        )[0]

    def loss_deviation(self) -> float:
        """The standard deviation of the validation examples' losses under the untrained model; 0 where a metric scores the task."""
        if self.task.metric != LOSS:
            return 0.0
        data = self.data(self._recipe.seed)
        losses = self.task.kind.losses(
            predict(data.model, data.validation, own_precision(data.model.module)), data.validation.labels
        )
        return losses.double().std().item() if len(losses) > 1 else 0.0

    def constant_score(self, split: str = "validation") -> float:
        """The score on one split of the best that looks at no input: `Task.chance`."""
        return self.task.chance(split, self.model(self._recipe.seed).vocabulary)

    def trial(
        self,
        spec: Spec,
        recipe: Recipe,
        stop_at: float | None = None,
        test: bool = False,
        pruner: Pruner | None = None,
        predictions: bool = False,
    ) -> dict[str, Any]:
        """One trial's outcome, from the store or by training.

        Where memory does not suffice for it its status is "failed", and nothing is stored: other trials go on.
        """
        return self.all([TrialRequest(spec, recipe, stop_at, pruner, test, predictions)])[0]

    def all(self, asks: Sequence[TrialRequest]) -> list[dict[str, Any]]:
        """The outcomes of trials that do not depend on one another, in their order; those that are not stored at once."""
        fresh = self.prefetch(asks, self.study) if self._executor is not None else {}
        return [self._outcome(ask, fresh.get(self._place(ask))) for ask in asks]

    def prefetch(self, asks: Sequence[TrialRequest], study: str | None = None) -> dict[Any, dict[str, Any]]:
        """Send what the store lacks, without asking for it: a trial is the study's own only once it is asked for."""
        assert self._executor is not None
        lacking = list({self._place(ask): ask for ask in asks if self._stored(ask) is None}.items())
        fresh: dict[Any, dict[str, Any]] = {}

        def ended(index: int, number: int, result: dict[str, Any]) -> None:
            place, ask = lacking[index]
            made = Made(result["outcome"], result["context"], base64.b64decode(result["predictions"]))
            if made.lasting:
                self._check_same(ask, made.context)
                self._keep(ask, made, study)
            fresh[place] = made.outcome
            self._progress.trial_turned(number)
            self._progress.trial_ended(self._label(ask), outcome_in_words(made.outcome, self.task.metric))

        def report(index: int, number: int, name: str, what: list[Any]) -> None:
            self._progress.trial_turned(number)
            if name == "trial_started":
                what = [self._label(lacking[index][1]), what[1]]
            getattr(self._progress, name)(*what)

        self._executor.run([self._job(ask) for _, ask in lacking], report, ended)
        return fresh

    def _outcome(self, ask: TrialRequest, fresh: dict[str, Any] | None) -> dict[str, Any]:
        """The outcome of a trial: made just now elsewhere, stored, or trained here."""
        body, key = fresh, self.key(ask.recipe)
        if body is None:
            self._progress.trial_turned(0)  # none of those that run elsewhere
            stored = self._stored(ask)
            if stored is not None:
                body, key = stored.outcome, stored.key
                if self.study is not None:
                    self.store.note(self.study, stored.key)
            else:
                data = self.data(ask.recipe.seed)
                made = _attempt(lambda: _made(data, ask, self._progress, self._checkpoint(ask), self._pause(ask)))
                if made.lasting:
                    self._keep(ask, made, self.study)
                body = made.outcome
            self._progress.trial_ended(
                self._label(ask), outcome_in_words(body, self.task.metric) + (", stored" if stored is not None else "")
            )
        if body["status"] != "failed":
            self.trials.append((ask.spec, ask.recipe, body))
            self._keys.append(key)
        return body

    def _stored(self, ask: TrialRequest) -> Stored | None:
        """The stored trial that answers."""
        found = self._find(ask.recipe, ask.stop_at)
        lacks = found and (
            (ask.test and found.outcome.get("test") is None) or (ask.predictions and not found.predictions)
        )
        return None if lacks else found

    def _keep(self, ask: TrialRequest, made: Made, study: str | None) -> None:
        """Write a trial that was made."""
        d, recipe = ask.spec.space.d if ask.spec.space else None, ask.recipe.to_dict()
        key = self.key(ask.recipe)
        self.store.add(
            key, ask.stop_at, d, ask.recipe.seed, recipe, made.outcome, made.context, made.predictions or None, study
        )
        self._checkpoint(ask).remove()
        self._write_line(recipe, made.outcome)

    def _checkpoint(self, ask: TrialRequest) -> Checkpoint:
        """Where a trial keeps its state until it has ended."""
        key = digest([self.key(ask.recipe), ask.stop_at, ask.test, asdict(ask.pruner) if ask.pruner else None])
        path = self.store.states / f"{key}.safetensors"
        return Checkpoint(path.absolute(), key, self.store.checkpoint_minutes)

    def _pause(self, ask: TrialRequest) -> Checkpoint | None:
        """Where a reading leaves its state: where the whole trial looks for its own."""
        return self._checkpoint(ask.whole) if ask.pause and ask.recipe.until < 1 else None

    def kept(self, recipe: Recipe) -> Path:
        """Where a trial's tune lies until its study knows whether it is the answer: beside the store."""
        return self.store.states / f"{self.key(recipe)}.d90"

    def drop_paused(self, asks: Sequence[TrialRequest]) -> None:
        """Remove the states that readings left and no whole trial took up."""
        for ask in asks:
            self._checkpoint(ask.whole).remove()

    def _job(self, ask: TrialRequest) -> Job:
        """A trial as plain data."""
        body: dict[str, Any] = {
            "recipe": ask.recipe.to_dict(),
            "stop_at": ask.stop_at,
            "hopeless": asdict(ask.pruner) if ask.pruner else None,
            "test": ask.test,
            "precision": precision_of(ask.recipe, self._any_data(ask.recipe)),
        }
        if getattr(self._executor, "shares_disk", False):
            kept = self._checkpoint(ask)
            body["checkpoint"] = [str(kept.path), kept.key, kept.minutes]
            pause = self._pause(ask)
            body["pause"] = [str(pause.path), pause.key, pause.minutes] if pause else None
            body["keep"] = str(ask.keep.absolute()) if ask.keep else None
            body["texts"] = str(self.store.texts.absolute())
        return Job("d90.trials.runner:run_job", body, self._label(ask), ask.recipe.steps(len(self.task.train)))

    def _check_same(self, ask: TrialRequest, context: dict[str, Any]) -> None:
        """Refuse what a machine with other data or another base made."""
        for what, here in (("task", self.task.fingerprint), ("base", self._held(ask.recipe).fingerprint)):
            if context[what] != here:
                name = ask.recipe.task if what == "task" else ask.recipe.model
                raise RunFailed(
                    f"{self._label(ask)}: the worker's {what} '{name}' has fingerprint {context[what]}, expected {here}. Likely "
                    "cause: another version of the data or of Python there; give all machines the same files"
                )

    def _place(self, ask: TrialRequest) -> tuple[Any, ...]:
        return self.key(ask.recipe), ask.stop_at, ask.test, ask.predictions

    def _label(self, ask: TrialRequest) -> str:
        return trial_label(ask.spec, ask.recipe, self.task.kind)

    def _held(self, recipe: Recipe) -> Model:
        """Any seed's model: fresh weights are no part of the base's fingerprint."""
        return self._any_data(recipe).model

    def _any_data(self, recipe: Recipe) -> Data:
        return next(iter(self._data.values()), None) or self.data(recipe.seed)

    def key(self, recipe: Recipe) -> str:
        """The trial's key in the store."""
        return trial_key(recipe, self.task, self._held(recipe))

    def bases(self, recipe: Recipe) -> tuple[str, ...]:
        """The fingerprints that a stored trial's base may have: today's, and that of trials stored before it had four parts."""
        model = self._held(recipe)
        return (model.fingerprint, model.earlier) if model.earlier else (model.fingerprint,)

    def _find(self, recipe: Recipe, stop_at: float | None) -> Stored | None:
        """A stored trial that answers, by the fingerprint of today or of its time."""
        for base in self.bases(recipe):
            found = self.store.find(trial_key(recipe, self.task, self._held(recipe), base), stop_at)
            if found is not None:
                if base != self._held(recipe).fingerprint and not self._said_earlier:
                    self._said_earlier = True
                    self._progress.note(f"a stored trial answers: {NOT_COVERED}")
                return found
        return None

    def note(self, study: str) -> None:
        """Note that every trial so far was made for a study."""
        for key in self._keys:
            self.store.note(study, key)

    def has_predictions(self, recipe: Recipe) -> bool:
        """Whether the store has this trial, run to its end, with its predictions."""
        stored = self._find(recipe, None)
        return stored is not None and bool(stored.predictions)

    def predictions(self, recipe: Recipe) -> NDArray[Any]:
        """A stored trial's predictions on the validation split, by the best of its evaluations."""
        stored = self._find(recipe, None)
        if stored is None or not stored.predictions:
            raise LookupError(f"no predictions of {recipe.method}, seed {recipe.seed}")
        return unpack(stored.predictions)

    def _write_line(self, recipe: dict[str, Any], outcome: dict[str, Any]) -> None:
        if self._log is not None:
            Path(self._log).parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(json.dumps({**recipe, **outcome}) + "\n")


def check_sendable(executor: Executor | None, model: str | Model, task: str | Task) -> None:
    """Refuse to send what another process cannot open by its name.

    Raises:
        InputError: a model or a task given as an object.
    """
    for what, given in (("model", model), ("task", task)):
        if executor is not None and not isinstance(given, str):
            raise InputError(
                f"got a {what} as an object ('{given.name}') and an executor, expected its name: a worker opens it again by name. "
                "Save it to a folder and name that, or leave the executor out"
            )


def run_job(body: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """In a worker: open the task and the model, train, and give back what the driver stores."""
    recipe = Recipe.from_dict(body["recipe"])
    pruner = Pruner(**body["hopeless"]) if body["hopeless"] else None
    keep = Path(body["keep"]) if body.get("keep") else None
    ask = TrialRequest(parse(recipe.method), recipe, body["stop_at"], pruner, body["test"], keep=keep)
    checkpoint, pause = (
        Checkpoint(Path(where[0]), str(where[1]), float(where[2])) if where else None
        for where in (body.get("checkpoint"), body.get("pause"))
    )

    def trained() -> Made:
        task = open_task(recipe.task, recipe)
        model = open_model(recipe.model, task, recipe, body.get("device", best_device()))
        texts = Path(body["texts"]) if body.get("texts") else None
        return _made(Data(model, task, True, body.get("precision"), texts), ask, progress, checkpoint, pause)

    made = _attempt(trained)
    packed = base64.b64encode(made.predictions).decode()
    return {"outcome": made.outcome, "context": made.context, "predictions": packed}


def _attempt(train: Callable[[], Made]) -> Made:
    """What training gives; where memory does not suffice, that this trial failed."""
    began = time.perf_counter()
    try:
        return train()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    # only now, when nothing holds the frames of what failed any more
    free_memory()
    return Made(failed_outcome(why, time.perf_counter() - began), {}, b"")


def _made(
    data: Data,
    ask: TrialRequest,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    pause: Checkpoint | None = None,
) -> Made:
    """Train."""
    best: list[Tensor] = []
    keep_best = ask.keep is not None or pause is not None
    control = RunControl(ask.stop_at, ask.pruner, keep_best, best.append, checkpoint, pause)
    outcome, applied_method = fit(
        data, ask.spec, ask.recipe,
        progress=progress, test=ask.test, control=control,
    )  # fmt: skip
    if ask.keep is not None and outcome.status != "diverged":
        Run(ask.recipe, outcome, data.model, data.task, applied_method).save(ask.keep)
    applied_method.release()
    device = _named(device_of(data.model.module))
    context = {"task": data.task.fingerprint, "base": data.model.fingerprint, **versions(), "device": device}
    return Made(outcome.to_dict(), context, pack(best[-1].numpy()) if best else b"")


def _named(device: torch.device) -> str:
    """What the GPU is called, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


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
