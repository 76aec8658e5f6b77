"""What happens at which step of a run: the learning rate's share, and the batch; and that it leaves no trace in torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from d90.training.batches import Batches
from d90.training.recipe import Recipe

__all__ = ["batches_of", "rate", "undisturbed"]


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
