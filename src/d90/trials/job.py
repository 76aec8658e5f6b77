"""A trial as it is trained, here or in a worker, and as the two tell each other of it: JSON objects.

TrialJob -> to_dict -> a worker: from_dict, train -> message_of -> the driver: result_in
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from d90.files import Json
from d90.methods import parse
from d90.search.pruning import Pruner
from d90.training.batches import device_of
from d90.training.checkpoint import Checkpoint
from d90.training.device import best_device
from d90.training.failures import failed_result, free_memory, out_of_memory
from d90.training.loop import Data, fit, open_model, open_task
from d90.training.progress import Progress
from d90.training.recipe import Recipe
from d90.training.result import TrialContext, TrialResult
from d90.training.run import Run
from d90.training.steps import RunControl
from d90.trials.context import context_here
from d90.trials.predictions import pack
from d90.trials.request import TrialRequest

__all__ = ["TrialJob", "attempt", "result_in", "run_job", "train_trial"]


@dataclass(frozen=True)
class TrialJob:
    """A request with what a worker cannot find out by itself.

    Attributes:
        precision: that the driver decided on.
        checkpoint, pause: where the run's state is kept, and where a reading leaves its own; None on another machine's disk.
        texts: the folder of texts that models wrote themselves.
        device: where it is trained; None: the best there is.
    """

    request: TrialRequest
    precision: str | None
    checkpoint: Checkpoint | None = None
    pause: Checkpoint | None = None
    texts: Path | None = None
    device: str | None = None

    def to_dict(self) -> Json:
        """As it is sent."""
        request = self.request
        return {
            "recipe": request.recipe.to_dict(),
            "stop_at": request.stop_at,
            "pruner": asdict(request.pruner) if request.pruner else None,
            "test": request.test,
            "keep": str(request.keep.absolute()) if request.keep else None,
            "precision": self.precision,
            "checkpoint": _sent(self.checkpoint),
            "pause": _sent(self.pause),
            "texts": str(self.texts.absolute()) if self.texts else None,
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, body: Json) -> TrialJob:
        """What was sent."""
        recipe, pruner, keep, texts = Recipe.from_dict(body["recipe"]), body["pruner"], body["keep"], body["texts"]
        request = TrialRequest(
            parse(recipe.method),
            recipe,
            body["stop_at"],
            Pruner(**pruner) if pruner else None,
            body["test"],
            keep=Path(keep) if keep else None,
        )
        kept, pause = _received(body["checkpoint"]), _received(body["pause"])
        return cls(request, body["precision"], kept, pause, Path(texts) if texts else None, body["device"])


def _sent(checkpoint: Checkpoint | None) -> list[str | float] | None:
    return None if checkpoint is None else [str(checkpoint.path), checkpoint.key, checkpoint.minutes]


def _received(sent: list[str | float] | None) -> Checkpoint | None:
    return None if sent is None else Checkpoint(Path(str(sent[0])), str(sent[1]), float(sent[2]))


def run_job(body: Json, progress: Progress) -> Json:
    """In a worker: open the task and the model, train, and give back what the driver stores."""
    job = TrialJob.from_dict(body)
    recipe = job.request.recipe

    def trained() -> TrialResult:
        task = open_task(recipe.task, recipe)
        model = open_model(recipe.model, task, recipe, job.device or best_device())
        data = Data(model, task, True, job.precision, job.texts)
        return train_trial(data, job, progress)

    result = attempt(trained)
    packed = base64.b64encode(result.predictions).decode()
    return {"outcome": result.to_dict(), "context": result.context.to_dict(), "predictions": packed}


def result_in(message: Json) -> TrialResult:
    """What `run_job` gave, at the driver's."""
    context = TrialContext.from_dict(message["context"])
    return TrialResult.from_dict(message["outcome"], context, base64.b64decode(message["predictions"]))


def attempt(train: Callable[[], TrialResult]) -> TrialResult:
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
    return failed_result(why, time.perf_counter() - began)


def train_trial(data: Data, job: TrialJob, progress: Progress) -> TrialResult:
    """Train, and take the method off the model again."""
    request, best = job.request, list[Tensor]()
    keep_best = request.keep is not None or job.pause is not None
    control = RunControl(
        request.stop_at, request.pruner, keep_best, best.append, job.checkpoint, job.pause, request.test
    )
    result, applied_method = fit(data, request.spec, request.recipe, progress=progress, control=control)
    if request.keep is not None and result.status != "diverged":
        Run(request.recipe, result, data.model, data.task, applied_method).save(request.keep)
    applied_method.release()
    device = _named(device_of(data.model.module))
    context = context_here(data.task.fingerprint, data.model.fingerprint, device)
    return replace(result, context=context, predictions=pack(best[-1].numpy()) if best else b"")


def _named(device: torch.device) -> str:
    """What the GPU is called, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
