"""The one training loop: train(model, task, method, ...) -> Run.

Adam, linear warm-up and decay, length-bucketed batches, bf16 autocast where the processor has it. The score of a run is
the best of its evaluations on the validation split; a run that is told a threshold stops at the first evaluation that
reaches it, and its score then means "at least".
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from d90.errors import InputError, TrainingFailed
from d90.methods import (
    AppliedMethod,
    Context,
    Direct,
    Full,
    Spec,
    Trainable,
    apply,
    parse,
    restore,
    snapshot,
)
from d90.models.model import Model, as_model
from d90.options import AUTO, DEFAULT, TaskOptions, TrainingOptions, with_options
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.subspace.file import check_dtype
from d90.subspace.subspace import Subspace
from d90.tasks import Task
from d90.training.batches import outputs_of
from d90.training.checkpoint import Checkpoint, State, resumed
from d90.training.data import Data, open_model, open_task
from d90.training.device import best_device, check_device
from d90.training.evaluation import assess, evaluate, predict
from d90.training.precision import autocast, precision_of
from d90.training.progress import Progress
from d90.training.rates import find_rate
from d90.training.recipe import Evaluation, Outcome, Recipe, default_lr, make_recipe, suited, trial_key
from d90.training.run import Run
from d90.training.schedule import batches_of, rate, recomputing, undisturbed
from d90.training.weights import settle

__all__ = [
    "Data",
    "Hopeless",
    "context",
    "evaluate",
    "fit",
    "open_model",
    "open_task",
    "predict",
    "train",
    "train_to_file",
]

Hopeless = Callable[[Sequence[Evaluation]], bool]


class TrainFields(TrainingFields, TaskFields, total=False):
    """What `train` takes as keywords besides its own parameters."""


@with_options
def train(
    model: str | Model | nn.Module,
    task: str | Task,
    method: str | Spec = "full",
    d: int | None = None,
    *,
    training: TrainingOptions = TrainingOptions(lr=DEFAULT),
    data: TaskOptions = TaskOptions(),
    progress: Progress | None = None,
    device: str | None = None,
    checkpoint: tuple[Path, float] | None = None,
    **fields: Unpack[TrainFields],
) -> Run:
    """Fine-tune `model` on `task` and keep the best evaluation's weights; the untrained model's where training never beat it.

    Args:
        model: a name ("minilm", a hub name, a folder, "fc", "lenet", "mlp:..."), trained on the GPU where there is one; or a
            `d90.Model` or a bare network (n, channels, height, width) -> (n, classes), trained where it is.
        task: a name ("docstrings", "glue/mrpc", a file or folder, "idx:folder"), or a `Task`.
        method: what moves, in the grammar of `d90.methods`.
        d: short for the method's "@d=...".
        progress: is told what happens.
        device: "cpu", "cuda", "cuda:N" or "mps", for a model opened by its name; by default `d90.training.device.best_device`.
        checkpoint: a file that keeps the run's state every so many minutes; the same call goes on from there after a kill. It is
            yours to remove once the run is saved.
        training, data: how it is trained and how the task's data is read; an `lr` of "auto" is found by runs of this recipe first
            (`d90.training.rates`).
        fields: those of `TrainingOptions` and `TaskOptions` as keywords, as epochs=2.

    Returns:
        A Run; its model carries the tune until `run.release()`.

    Raises:
        InputError: what was wrong, what was expected, what to do.
    """
    spec = parse(method) if isinstance(method, str) else method
    spec = spec if d is None else spec.at(d)
    progress = progress or Progress()
    model, chosen = as_model(model), check_device(device) if device else best_device()
    recipe = make_recipe(model, task, spec, training, data)
    loaded_task = open_task(task, recipe, model)
    spec = suited(method, loaded_task.kind)
    (spec,), weights, held = settle(training, [spec if d is None else spec.at(d)], loaded_task, model, chosen)
    recipe = replace(recipe, method=str(spec), weights=weights)
    loaded = open_model(model, loaded_task, recipe, chosen)
    for note in (*loaded_task.told, *([held] if held else []), *loaded.notes):
        progress.note(note)
    encoded = Data(loaded, loaded_task, timed=True)
    encoded.note_truncation(progress)
    if training.lr == AUTO:
        recipe = _with_rate(encoded, spec, recipe, progress)
    kept = None
    if checkpoint is not None:
        where, minutes = checkpoint
        kept = Checkpoint(Path(where), trial_key(recipe, loaded_task, loaded), minutes)
    outcome, applied_method = fit(encoded, spec, recipe, progress=progress, keep_best=True, checkpoint=kept)
    if not outcome.improved:
        progress.note(
            "training never beat the untrained model, whose weights are kept; more epochs or another learning rate may help"
        )
    return Run(recipe, outcome, loaded, loaded_task, applied_method)


def train_to_file(
    out: Path,
    model: str | Model | nn.Module,
    task: str | Task,
    method: str | Spec = "full",
    d: int | None = None,
    *,
    training: TrainingOptions,
    data: TaskOptions,
    dtype: str = "fp32",
    progress: Progress | None = None,
    checkpoint_minutes: float,
) -> Run:
    """Train and write the tune, with the run's state beside it until then.

    Raises:
        InputError: as `train`; a name or a dtype that no tune can have.
        TrainingFailed: the loss was not finite; nothing is written.
    """
    if out.suffix == ".json":
        raise InputError(f"got out={out}, expected another ending such as .d90: the recipe takes the .json beside it")
    spec = parse(method) if isinstance(method, str) else method
    check_dtype(dtype, subspace=d is not None or spec.space is not None)
    state = out.with_name(f"{out.name}.checkpoint")
    kept = (state, checkpoint_minutes)
    run = train(model, task, spec, d, training=training, data=data, progress=progress, checkpoint=kept)
    if run.outcome.status == "diverged":
        state.unlink(missing_ok=True)
        steps, lr = run.outcome.steps, run.outcome.lr
        raise TrainingFailed(f"the loss was not finite at step {steps}; nothing was saved. Lower --lr ({lr:g})")
    run.save(out, dtype)
    state.unlink(missing_ok=True)
    return run


def _with_rate(data: Data, spec: Spec, recipe: Recipe, progress: Progress) -> Recipe:
    """The recipe at the rate that runs of it find."""

    def run(recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
        found = []
        for one in recipes:
            outcome, applied_method = fit(data, spec, one, progress=progress)
            applied_method.release()
            found.append(outcome.to_dict())
        return found

    searched = find_rate(run, recipe, default_lr(spec, data.task.kind), recipe.steps(len(data.train)))
    progress.note(searched.describe(data.task.metric))
    return replace(recipe, lr=searched.lr)


def fit(
    data: Data,
    spec: Spec,
    recipe: Recipe,
    *,
    stop_at: float | None = None,
    progress: Progress,
    keep_best: bool = False,
    test: bool = False,
    applied_method: AppliedMethod | None = None,
    pruner: Hopeless | None = None,
    best: Callable[[Tensor], None] | None = None,
    checkpoint: Checkpoint | None = None,
    pause: Checkpoint | None = None,
) -> tuple[Outcome, AppliedMethod]:
    """Train once; `keep_best` ends at the best evaluation's weights, `test` scores them on the test split.

    An `applied_method` is trained further; without one the method is applied afresh. `pruner` is asked after each evaluation
    whether to give up; `best` is told the predictions whenever they are the best so far. With a `checkpoint`
    a run that was killed goes on from it. A reading (`Recipe.until`) leaves its state in `pause`, from which the whole run goes on,
    bit for bit.

    Returns:
        The outcome, and the method as it lies on the model: call `release()` on it.
    """
    module = data.model.module
    if recipe.measures_forgetting:
        data.remember(recipe.keep)
    whole = test or (recipe.measures_forgetting and recipe.until == 1)
    applied_method = applied_method or apply(spec, module, recipe.seed, context(data, recipe, progress))
    try:
        with undisturbed(module, recipe.seed), recomputing(module, recipe.gradient_checkpointing):
            outcome = _loop(
                data, applied_method.trained, spec, recipe, stop_at, progress, keep_best or whole, pruner, best, checkpoint, pause
            )  # fmt: skip
            if test:
                outcome = replace(outcome, test=evaluate(data, "test", outcome.precision)[0])
            if whole and recipe.measures_forgetting and outcome.status != "diverged":
                outcome = replace(outcome, forgetting=data.forgotten(recipe.keep))
            return outcome, applied_method
    except BaseException:
        applied_method.release()
        raise


def context(data: Data, recipe: Recipe, progress: Progress | None = None) -> Context:
    """What a method may ask of a run before it starts: losses of batches, and a full fine-tuning in place."""
    module = data.model.module

    def losses(count: int) -> Iterator[Tensor]:
        with undisturbed(module, recipe.seed):
            module.eval()
            for chosen in itertools.islice(data.train.shuffled(recipe.batch_size, recipe.seed, 0), count):
                outputs = outputs_of(module, data.train.inputs(chosen), data.task.kind)
                yield data.task.kind.training_loss(outputs, data.train.labels[chosen].to(outputs.device))

    def fine_tune() -> None:
        spec = Spec(Full())
        with undisturbed(module, recipe.seed):
            _loop(
                data, Direct(module), spec, replace(recipe, method=str(spec), lr=None), None, progress or Progress(), False
            )  # fmt: skip

    def note(text: str) -> None:
        data.note_once(text, progress or Progress())

    return Context(recipe.seed, losses, fine_tune, step_rule=recipe.step_rule, note=note)


def _loop(
    data: Data,
    trained: Trainable,
    spec: Spec,
    recipe: Recipe,
    stop_at: float | None,
    progress: Progress,
    keep_best: bool,
    pruner: Hopeless | None = None,
    seen: Callable[[Tensor], None] | None = None,
    checkpoint: Checkpoint | None = None,
    pause: Checkpoint | None = None,
) -> Outcome:
    began = time.perf_counter()
    task = data.task
    precision = precision_of(recipe, data)
    if data.precision_note:
        data.note_once(data.precision_note, progress)
    lr = recipe.lr if recipe.lr is not None else default_lr(spec, task.kind)
    parameters = list(trained.parameters())
    # fused: one pass over the weights; over every weight of minilm a bf16 step is a quarter shorter (benchmarks/step.py)
    optimizer = trained.attach(torch.optim.Adam(parameters, lr=lr, weight_decay=recipe.weight_decay, fused=True))
    total = recipe.steps(len(data.train))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total, recipe.warmup))
    last = max(1, round(total * recipe.until))
    evenly = {max(1, round(total * (i + 1) / recipe.evaluations)) for i in range(recipe.evaluations)}
    looks = evenly | {last}

    progress.trial_started(f"{recipe.method} seed {recipe.seed}", last)
    predictions: list[Tensor] = []  # of the best evaluation so far

    def told(found: Tensor) -> None:
        predictions[:] = [found]
        if seen is not None:
            seen(found)

    status, step, done = "finished" if last == total else "read", 0, 0
    state = resumed(checkpoint, trained, optimizer, schedule, last) if checkpoint is not None else None
    if state is None:
        curve, running = [_look(data, recipe, precision, told if seen else None, [], 0)], 0.0
        zero_score = curve[0].score
        best_state = snapshot(trained) if keep_best else None
    else:
        curve, running, step, done = state.curve, state.running, state.step, state.step
        best_state = state.best
        zero_score, began = curve[0].score, began - state.seconds
        if state.predictions is not None:
            told(state.predictions)
        progress.note(f"{recipe.method} seed {recipe.seed} goes on from step {step} of {last}")
    best = max(look.score for look in curve)

    def save(to: Checkpoint) -> None:
        kept = optimizer.state_dict()["state"]
        seconds, predicted = time.perf_counter() - began, predictions[0] if predictions else None
        why = to.save(State(snapshot(trained), kept, step, running, curve, seconds, best_state, predicted))
        if why is not None:
            progress.note(why)

    rest = itertools.islice(batches_of(data.train, recipe, last), done, None)
    for step, chosen in enumerate(rest, start=done + 1):
        value = _backward(data, chosen, precision, recipe.accumulate)
        if not math.isfinite(value):
            status = "diverged"
            break
        if recipe.clip and isinstance(trained, Direct):
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        running = value if step == 1 else 0.98 * running + 0.02 * value
        if step % 10 == 0 or step == last:
            progress.trial_step(step, running)
        if pause is not None and step == last and step not in evenly:
            save(pause)  # the whole run does not look here
        if step in looks:
            look = _look(data, recipe, precision, told if seen else None, curve, step)
            if not math.isfinite(look.loss):
                status = "diverged"
                break
            curve.append(look)
            score = look.score
            progress.trial_scored(step, score, look.loss)
            if score > best:
                best, best_state = score, snapshot(trained) if keep_best else None
            if stop_at is not None and score >= stop_at:
                status = "passed" if step < total else "finished"
                break
            if pruner is not None and step < total and pruner(curve):
                status = "hopeless"
                break
        if checkpoint is not None and step < last and checkpoint.due:
            save(checkpoint)
        if pause is not None and step == last and step in evenly:
            save(pause)
    if best_state is not None:
        restore(trained, best_state)
    return Outcome(
        score=best,
        status=status,
        zero_score=zero_score,
        curve=tuple(curve),
        steps=step,
        seconds=time.perf_counter() - began,
        train_loss=running,
        truncated=data.truncated,
        lr=lr,
        precision=precision,
        **_sizes(trained),
    )


def _backward(data: Data, chosen: Tensor, precision: str, parts: int) -> float:
    """The loss of one batch, in the unit it is told in, and its gradient where it is finite.

    In several parts one after the other, each counts by its examples, of whose losses the batch's is the mean.
    """
    module, kind = data.model.module, data.task.kind
    module.train()
    total = 0.0
    for part in chosen.tensor_split(min(parts, len(chosen))):
        with autocast(module, precision):
            outputs = outputs_of(module, data.train.inputs(part), kind)
        loss = kind.training_loss(outputs, data.train.labels[part].to(outputs.device))
        share = 1.0 if len(part) == len(chosen) else len(part) / len(chosen)
        value = loss.item() * kind.unit * share
        total += value
        if not math.isfinite(value):
            break
        (loss if share == 1 else loss * share).backward()
    return total


def _sizes(trained: Trainable) -> dict[str, Any]:
    """How many numbers are trained and moved, over which layers."""
    count = sum(p.numel() for p in trained.parameters())
    if isinstance(trained, Subspace):
        return {"trained": count, "D": trained.D, "lambdas": trained.m, "layers": trained.layer_definition}
    return {"trained": count, "D": count, "lambdas": 0, "layers": "none (direct)"}


def _look(
    data: Data, recipe: Recipe, precision: str, seen: Callable[[Tensor], None] | None, curve: Sequence[Evaluation], step: int
) -> Evaluation:  # fmt: skip
    """Evaluate on the validation split after `step` steps; predictions that score better than all looks before are told.

    A look that has forgotten more than the recipe allows counts as the untrained model's.
    """
    found, best = assess(data, "validation", precision), max((look.score for look in curve), default=-math.inf)
    score, forgets = found.score, None
    if recipe.forget_at_most is not None and curve and score > best and math.isfinite(found.loss):
        forgets = max(one.mean for one in data.forgotten(recipe.keep))
        score = score if forgets <= recipe.forget_at_most else curve[0].score
    if seen is not None and score > best and math.isfinite(found.loss):
        seen(found.predictions)
    return Evaluation(step, score, found.loss, forgets)
