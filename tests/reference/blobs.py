"""A small image task made here, and options that train on it in a second: no download, no pretrained model."""

from __future__ import annotations

from typing import Any

import torch

from d90.tasks import Split, Task
from d90.training.progress import Progress

__all__ = ["FAST", "SMALL", "Notes", "blobs"]

FAST: dict[str, Any] = {"epochs": 3, "batch_size": 32, "evaluations": 3, "lr": 0.01}
SMALL: dict[str, Any] = {**FAST, "start": 32, "resolution": 1.3, "baseline_lr": 0.01}


def blobs(seed: int = 0, noise: float = 0.5, kind: str = "classification") -> Task:
    """Three Gaussian blobs of 1 x 4 x 4 images."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 16, generator=torch.Generator().manual_seed(99))

    def split(n: int) -> Split:
        labels = torch.randint(0, 3, (n,), generator=generator)
        pixels = centres[labels] + noise * torch.randn(n, 16, generator=generator)
        values = labels if kind == "classification" else labels.float()
        return Split(pixels.reshape(n, 1, 4, 4), values)

    names = ("a", "b", "c") if kind == "classification" else ()
    metric = "accuracy" if kind == "classification" else "pearson"
    return Task("blobs", kind, names, metric, split(300), split(200), split(100))


class Notes(Progress):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
