"""The precision of a run: fp32, or bf16 autocast where a timed step says that it pays."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch
from torch import nn

from d90.training.batches import device_of, outputs_of
from d90.training.recipe import Recipe, bf16_is_fast

if TYPE_CHECKING:
    from d90.training.data import Data

__all__ = ["autocast", "own_precision", "precision_of", "step_seconds"]

GAIN = 0.8  # bf16 is taken where a step takes at most this share of fp32's time: less is not worth the rounding
SHORT = 0.02  # seconds: steps so short are fp32's, for their times say nothing


def precision_of(recipe: Recipe, data: Data) -> str:
    """fp32 or bf16. "auto", for texts on a device that has bf16, is decided by a timed step where `data.timed`, once for all trials
    that share the data, and kept in `data.precision`; elsewhere by the device alone, so that a certificate's check repeats it.
    """
    if recipe.weights != "fp32":
        return "bf16"  # what a method adds is in fp32, and computes with the rest
    if recipe.precision != "auto":
        return recipe.precision
    if data.precision is None and data.timed:
        data.precision, data.precision_note = _by_time(recipe, data)
    if data.precision is not None:
        return data.precision
    return "bf16" if not data.task.kind.from_scratch and bf16_is_fast(device_of(data.model.module).type) else "fp32"


def autocast(module: nn.Module, precision: str) -> torch.autocast:
    """Where the model is, in the run's precision."""
    return torch.autocast(device_of(module).type, dtype=torch.bfloat16, enabled=precision == "bf16")


def own_precision(module: nn.Module) -> str:
    """bf16 for a model whose weights are held in it, else fp32: what it is evaluated in where no run's precision decides."""
    return "bf16" if any(parameter.dtype == torch.bfloat16 for parameter in module.parameters()) else "fp32"


def _by_time(recipe: Recipe, data: Data) -> tuple[str, str]:
    """(precision, what to say about it; nothing where the device has no bf16)."""
    if data.task.kind.from_scratch or not bf16_is_fast(device_of(data.model.module).type):
        return "fp32", ""
    slow = step_seconds(recipe, data, "fp32")
    if slow < SHORT:
        return "fp32", ""
    try:
        fast = step_seconds(recipe, data, "bf16")
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return "fp32", f"bf16 fails in this model ({' '.join(str(error).split())[:120]}): fp32 for all trials"
    chosen = "bf16" if fast <= GAIN * slow else "fp32"
    why = (
        "its loss is not finite in bf16"
        if math.isinf(fast)
        else f"a step takes {fast:.2g} s in bf16, {slow:.2g} s in fp32"
    )
    return chosen, f"precision {chosen} for all trials: {why}"


def step_seconds(recipe: Recipe, data: Data, precision: str) -> float:
    """How long forward and backward pass take on the first batch, the faster of two after a warm-up; infinite for a loss that is not
    finite. Nothing is changed: no step is made, gradients and modes are given back, no random number is drawn.
    """
    module = data.model.module
    space = getattr(module, "_d90_space", None)
    held = [*module.parameters(), *(space.parameters() if space is not None else ())]
    gradients = [(parameter, parameter.grad) for parameter in held]
    modes = [(part, part.training) for part in module.modules()]
    chosen = data.train.shuffled(recipe.batch_size, recipe.seed, 0)[0]
    inputs, best = data.train.inputs(chosen), math.inf
    try:
        module.eval()  # no dropout, whose numbers belong to the run
        for attempt in range(3):
            began = time.perf_counter()
            with torch.enable_grad():
                with autocast(module, precision):
                    outputs = outputs_of(module, inputs, data.task.kind)
                loss = data.task.kind.training_loss(outputs, data.train.labels[chosen].to(outputs.device))
                if not math.isfinite(loss.item()):
                    return math.inf
                if loss.requires_grad:
                    loss.backward()
            if outputs.device.type == "cuda":
                torch.cuda.synchronize(outputs.device)
            took = time.perf_counter() - began
            best = min(best, took) if attempt else math.inf
            for parameter in held:
                parameter.grad = None
            if attempt and took > 1:
                break
        return best
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for part, mode in modes:
            part.training = mode
