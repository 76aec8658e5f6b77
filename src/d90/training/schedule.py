"""What happens at which step of a run: the learning rate's share, and the batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from d90.training.batches import Batches
from d90.training.recipe import Recipe

__all__ = ["batches_of", "rate"]


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
