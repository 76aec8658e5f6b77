"""The one training loop: train(model, task, method, ...) -> Run.

Adam, linear warm-up and decay, length-bucketed batches, bf16 autocast where the processor has it. The score of a run is
the best of its evaluations on the validation split; a run with a threshold stops at the first evaluation that
reaches it, and its score then means "at least".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from typing_extensions import Unpack

from d90.errors import InputError, TrainingFailed
from d90.methods import (
    AppliedMethod,
    Context,
    Direct,
    Full,
    Spec,
    apply,
)
from d90.models.model import Model, as_model
from d90.options import AUTO, DEFAULT, TaskOptions, TrainingOptions, with_options
from d90.options.task import TaskFields
from d90.options.training import TrainingFields
from d90.subspace.file import check_dtype
from d90.tasks import Task
from d90.training.batches import outputs_of
from d90.training.checkpoint import Checkpoint
from d90.training.data import Data, open_model, open_task
from d90.training.device import best_device, check_device
from d90.training.evaluation import evaluate, predict
from d90.training.progress import Progress
from d90.training.rates import find_rate
from d90.training.recipe import Recipe, default_lr, trial_key
from d90.training.request import TrainingRequest
from d90.training.result import TrialResult
from d90.training.run import Run
from d90.training.schedule import recomputing, undisturbed
from d90.training.showing import ProgressOption, listener, shows_progress
from d90.training.steps import NO_CONTROL, Loop, RunControl

__all__ = [
    "Data",
    "context",
    "evaluate",
    "fit",
    "open_model",
    "open_task",
    "predict",
    "train",
    "train_to_file",
]


class TrainFields(TrainingFields, TaskFields, total=False):
    """What `train` takes as keywords besides its own parameters."""


@with_options
@shows_progress
def train(
    model: str | Model | nn.Module,
    task: str | Task,
    method: str | Spec = "full",
    d: int | None = None,
    *,
    training: TrainingOptions = TrainingOptions(lr=DEFAULT),
    data: TaskOptions = TaskOptions(),
    progress: ProgressOption = None,
    device: str | None = None,
    checkpoint: tuple[Path, float] | None = None,
    **fields: Unpack[TrainFields],
) -> Run:
    """Fine-tune `model` on `task` and keep the best evaluation's weights; the untrained model's where training never beat it.

    Example:
        >>> run = d90.train(model, task, "full", d=20, epochs=2, lr=0.01)
        >>> run.counts.stored
        20
        >>> run.score > run.outcome.zero_score
        True

    Args:
        model: a name ("minilm", a hub name, a folder, "fc", "lenet", "mlp:..."), trained on the GPU where there is one; or a
            `d90.Model` or a bare network (n, channels, height, width) -> (n, classes), trained where it is.
        task: a name ("docstrings", "glue/mrpc", a file or folder, "idx:folder"), or a `Task`.
        method: what moves, in the grammar of `d90.methods`.
        d: short for the method's "@d=...".
        progress: receives the events; by default bars in a terminal, lines in a notebook; False silences it.
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
    progress = listener(progress)
    chosen = check_device(device) if device else best_device()
    encoded, spec, recipe = _opened(TrainingRequest(model, task, method, d, training, data), chosen, progress)
    if training.lr == AUTO:
        recipe = _with_rate(encoded, spec, recipe, progress)
    kept = None
    if checkpoint is not None:
        where, minutes = checkpoint
        kept = Checkpoint(Path(where), trial_key(recipe, encoded.task, encoded.model), minutes)
    control = RunControl(keep_best=True, checkpoint=kept)
    outcome, applied_method = fit(encoded, spec, recipe, progress=progress, control=control)
    if not outcome.improved:
        progress.note(
            "training never beat the untrained model, whose weights are kept; more epochs or another learning rate may help"
        )
    return Run(recipe, outcome, encoded.model, encoded.task, applied_method)


def _opened(asked: TrainingRequest, device: str, progress: Progress) -> tuple[Data, Spec, Recipe]:
    """Model and task opened and encoded, the method as it is meant for the task, and the recipe."""
    model = as_model(asked.model)
    task = open_task(asked.task, asked.recipe, model)
    spec, recipe, held = asked.settled(task, model, device)
    loaded = open_model(model, task, recipe, device)
    for note in (*task.shown_notes, *([held] if held else []), *loaded.notes):
        progress.note(note)
    encoded = Data(loaded, task, timed=True)
    encoded.note_truncation(progress)
    return encoded, spec, recipe


def train_to_file(
    asked: TrainingRequest,
    out: Path,
    *,
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
    check_dtype(dtype, subspace=asked.spec.space is not None)
    state = out.with_name(f"{out.name}.checkpoint")
    run = train(
        asked.model,
        asked.task,
        asked.method,
        asked.d,
        training=asked.training,
        data=asked.data,
        progress=progress,
        checkpoint=(state, checkpoint_minutes),
    )
    if run.outcome.status == "diverged":
        state.unlink(missing_ok=True)
        steps, lr = run.outcome.steps, run.outcome.lr
        raise TrainingFailed(f"the loss was not finite at step {steps}; nothing was saved. Lower --lr ({lr:g})")
    run.save(out, dtype)
    state.unlink(missing_ok=True)
    return run


def _with_rate(data: Data, spec: Spec, recipe: Recipe, progress: Progress) -> Recipe:
    """The recipe at the rate that runs of it find."""

    def run(recipes: Sequence[Recipe]) -> list[TrialResult]:
        found = []
        for one in recipes:
            result, applied_method = fit(data, spec, one, progress=progress)
            applied_method.release()
            found.append(result)
        return found

    searched = find_rate(run, recipe, default_lr(spec, data.task.kind), recipe.steps(len(data.train)))
    progress.note(searched.describe(data.task.metric))
    return replace(recipe, lr=searched.lr)


def fit(
    data: Data,
    spec: Spec,
    recipe: Recipe,
    *,
    progress: Progress,
    control: RunControl = NO_CONTROL,
    applied_method: AppliedMethod | None = None,
) -> tuple[TrialResult, AppliedMethod]:
    """Train once.

    Args:
        control: when the run ends early, what is kept of it, and whether it is scored on the test split.
        applied_method: trained further; without one the method is applied afresh.

    Returns:
        The result, and the method as it lies on the model: call `release()` on it.
    """
    module = data.model.module
    if recipe.measures_forgetting:
        data.remember(recipe.keep, progress)
    whole = control.test or (recipe.measures_forgetting and recipe.until == 1)
    at_base = applied_method is None and spec.method.starts_at_base
    control = replace(control, keep_best=control.keep_best or whole, at_base=at_base)
    applied_method = applied_method or apply(spec, module, recipe.seed, context(data, recipe, progress))
    try:
        with undisturbed(module, recipe.seed), recomputing(module, recipe.gradient_checkpointing):
            result = Loop(data, applied_method.trained, spec, recipe, control, progress).run()
            if control.test:
                result = replace(result, test=evaluate(data, "test", result.precision)[0])
            if whole and recipe.measures_forgetting and result.status != "diverged":
                result = replace(result, forgetting=data.forgotten(recipe.keep))
            return result, applied_method
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
            full = replace(recipe, method=str(spec), lr=None)
            Loop(data, Direct(module), spec, full, NO_CONTROL, progress or Progress()).run()

    def note(text: str) -> None:
        data.note_once(text, progress or Progress())

    return Context(recipe.seed, losses, fine_tune, step_rule=recipe.step_rule, note=note)
