"""What happens at which step of a run: the learning rate's share, and the batch; and that it leaves no trace in torch or model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.training.batches import Batches
from d90.training.recipe import Recipe

__all__ = ["batches_of", "rate", "recomputing", "undisturbed"]


def rate(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over the first share of the steps, then linear decay to zero."""
    ramp = max(1, round(total * warmup))
    return (step + 1) / ramp if step < ramp else max(0.0, (total - step) / max(1, total - ramp))


def batches_of(train_data: Batches, recipe: Recipe, steps: int) -> Iterator[Tensor]:
    """The batches of a run's first `steps` steps, by their numbers: epoch after epoch, each in an order of its own."""
    done, epoch = 0, 0
    while True:
        for chosen in train_data.shuffled(recipe.batch_size, recipe.seed, epoch):
            if done == steps:
                return
            yield chosen
            done += 1
        epoch += 1


@contextlib.contextmanager
def undisturbed(module: nn.Module, seed: int) -> Iterator[None]:
    """Seed torch for the run (dropout), then give back its generator's state and every module's train/eval flag."""
    modes = [(part, part.training) for part in module.modules()]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode


@contextlib.contextmanager
def recomputing(module: nn.Module, wanted: bool) -> Iterator[None]:
    """With gradient checkpointing where it is wanted: blocks compute their activations again in the backward pass.

    Raises:
        InputError: a model whose blocks cannot.
    """
    if not wanted:
        yield
        return
    model: Any = module
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise InputError(
            f"got gradient checkpointing for a {type(module).__name__}, which has none; expected a model of transformers whose blocks "
            "support it. A larger --accumulate saves memory too"
        )
    before = any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
    verb = (
        "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    )  # as transformers says since 5.23
    getattr(model, f"{verb}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        if not before:
            getattr(model, f"{verb}_checkpointing_disable")()
