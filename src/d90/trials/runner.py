"""The bench of every study: trials run against a store. It looks there first, trains, writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from d90.errors import InputError, RunFailed
from d90.files import Json
from d90.models.loading import Model
from d90.subspace.fingerprint import NOT_COVERED
from d90.tasks import Task
from d90.tasks.metrics import LOSS
from d90.training.checkpoint import Checkpoint
from d90.training.device import best_device
from d90.training.loop import Data, evaluate, open_model, predict
from d90.training.precision import own_precision, precision_of
from d90.training.recipe import Recipe, trial_key, trial_label
from d90.training.result import TrialContext, TrialResult
from d90.trials.executor import Executor, Job
from d90.trials.job import TrialJob, attempt, result_in, train_trial
from d90.trials.options import RunOptions
from d90.trials.predictions import unpack
from d90.trials.request import TrialRequest
from d90.trials.row import TrialRow
from d90.trials.store import digest

__all__ = ["TrialRunner", "check_sendable"]

Place = tuple[str, float | None, bool, bool]  # what tells requests apart: key, threshold, and whether more is asked for


class TrialRunner:
    """Runs trials against the store: looks there first, trains (here, or where the executor does), writes.

    Args:
        model, task: of every trial.
        recipe: how the first is trained; fresh weights and the precision are decided by it.
        run: the store, the log, the executor, and who receives the events.
    """

    def __init__(self, model: str | Model, task: Task, recipe: Recipe, run: RunOptions) -> None:
        self.task, self.store, self._progress, self._log = task, run.open_store(), run.listener, run.log
        self._given, self._recipe, self._executor = model, recipe, run.executor
        self._data: dict[int, Data] = {}
        self._keys: list[str] = []  # of the trials that it gave, under which they are stored
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
        rows = (row for row in self.store.trials() if row.recipe.precision == "auto")
        mine = (row.result for row in rows if row.result.context.of(self.task.fingerprint, bases))
        return next((result.precision for result in mine), None)

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
        """The score on one split of the best that looks at no input."""
        return self.data(self._recipe.seed).chance(split)

    def run(self, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        """What trials give that do not depend on one another, in their order: from the store, or by training.

        Where memory does not suffice for one its status is "failed", and it is not stored: the others go on.
        """
        fresh = self.prefetch(requests, self.study) if self._executor is not None else {}
        return [self._result(request, fresh.get(self._place(request))) for request in requests]

    def prefetch(self, requests: Sequence[TrialRequest], study: str | None = None) -> dict[Place, TrialResult]:
        """Send what the store lacks, without asking for it: a trial is the study's own only once it is asked for."""
        assert self._executor is not None
        lacking = list({self._place(one): one for one in requests if self._stored(one) is None}.items())
        fresh: dict[Place, TrialResult] = {}

        def ended(index: int, number: int, message: Json) -> None:
            place, request = lacking[index]
            result = result_in(message)
            if result.lasting:
                self._check_same(request, result.context)
                self._keep(request, result, study)
            fresh[place] = result
            self._progress.trial_turned(number)
            self._progress.trial_ended(self._label(request), result.describe(self.task.metric))

        def report(index: int, number: int, name: str, what: list[Any]) -> None:
            self._progress.trial_turned(number)
            if name == "trial_started":
                what = [self._label(lacking[index][1]), what[1]]
            getattr(self._progress, name)(*what)

        self._executor.run([self._job(request) for _, request in lacking], report, ended)
        return fresh

    def _result(self, request: TrialRequest, fresh: TrialResult | None) -> TrialResult:
        """What a trial gives: made just now elsewhere, stored, or trained here."""
        result, key = fresh, self.key(request.recipe)
        if result is None:
            self._progress.trial_turned(0)  # none of those that run elsewhere
            stored = self._stored(request)
            if stored is not None:
                result, key = stored.result, stored.key
                if self.study is not None:
                    self.store.note(self.study, stored.key)
            else:
                result = self._train(request)
            described = result.describe(self.task.metric) + (", stored" if stored is not None else "")
            self._progress.trial_ended(self._label(request), described)
        if result.lasting:
            self._keys.append(key)
        return result

    def _train(self, request: TrialRequest) -> TrialResult:
        """Train here, and store what that gives."""
        data = self.data(request.recipe.seed)
        job = TrialJob(request, None, self._checkpoint(request), self._pause(request))
        result = attempt(lambda: train_trial(data, job, self._progress))
        if result.lasting:
            self._keep(request, result, self.study)
        return result

    def _stored(self, request: TrialRequest) -> TrialRow | None:
        """The stored trial that answers."""
        found = self._find(request.recipe, request.stop_at)
        if found is None or (request.test and found.result.test is None):
            return None
        return None if request.predictions and not found.result.predictions else found

    def _keep(self, request: TrialRequest, result: TrialResult, study: str | None) -> None:
        """Write a trial that was made."""
        d, recipe = request.spec.space.d if request.spec.space else None, request.recipe.to_dict()
        row = TrialRow(self.key(request.recipe), recipe, result, request.stop_at, d, request.recipe.seed)
        self.store.add(row, study)
        self._checkpoint(request).remove()
        self._write_line({**recipe, **result.to_dict()})

    def _checkpoint(self, request: TrialRequest) -> Checkpoint:
        """Where a trial keeps its state until it has ended."""
        key = digest(
            [
                self.key(request.recipe),
                request.stop_at,
                request.test,
                asdict(request.pruner) if request.pruner else None,
            ]
        )
        path = self.store.states / f"{key}.safetensors"
        return Checkpoint(path.absolute(), key, self.store.checkpoint_minutes)

    def _pause(self, request: TrialRequest) -> Checkpoint | None:
        """Where a reading leaves its state: where the whole trial looks for its own."""
        return self._checkpoint(request.whole) if request.pause and request.recipe.until < 1 else None

    def kept(self, recipe: Recipe) -> Path:
        """Where a trial's tune lies until its study knows whether it is the answer: beside the store."""
        return self.store.states / f"{self.key(recipe)}.d90"

    def drop_paused(self, requests: Sequence[TrialRequest]) -> None:
        """Remove the states that readings left and no whole trial took up."""
        for request in requests:
            self._checkpoint(request.whole).remove()

    def _job(self, request: TrialRequest) -> Job:
        """A trial as plain data."""
        job = TrialJob(request, precision_of(request.recipe, self._any_data(request.recipe)))
        if getattr(self._executor, "shares_disk", False):
            kept, pause = self._checkpoint(request), self._pause(request)
            job = replace(job, checkpoint=kept, pause=pause, texts=self.store.texts)
        else:
            job = replace(job, request=replace(request, keep=None))
        steps = request.recipe.steps(len(self.task.train))
        return Job("d90.trials.job:run_job", job.to_dict(), self._label(request), steps)

    def _check_same(self, request: TrialRequest, context: TrialContext) -> None:
        """Refuse what a machine with other data or another base made."""
        recipe = request.recipe
        for what, name, there, here in (
            ("task", recipe.task, context.task, self.task.fingerprint),
            ("base", recipe.model, context.base, self._held(recipe).fingerprint),
        ):
            if there != here:
                raise RunFailed(
                    f"{self._label(request)}: the worker's {what} '{name}' has fingerprint {there}, expected {here}. Likely cause: "
                    "another version of the data or of Python there; give all machines the same files"
                )

    def _place(self, request: TrialRequest) -> Place:
        return self.key(request.recipe), request.stop_at, request.test, request.predictions

    def _label(self, request: TrialRequest) -> str:
        return trial_label(request.spec, request.recipe, self.task.kind)

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

    def _find(self, recipe: Recipe, stop_at: float | None) -> TrialRow | None:
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
        return stored is not None and bool(stored.result.predictions)

    def predictions(self, recipe: Recipe) -> NDArray[Any]:
        """A stored trial's predictions on the validation split, by the best of its evaluations."""
        stored = self._find(recipe, None)
        if stored is None or not stored.result.predictions:
            raise LookupError(f"no predictions of {recipe.method}, seed {recipe.seed}")
        return unpack(stored.result.predictions)

    def _write_line(self, line: Json) -> None:
        if self._log is not None:
            Path(self._log).parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


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
