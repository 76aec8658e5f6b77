"""Models whose state no message holds, tasks of random labels, and a count of a message's errors in a process of its own.

`python -m tests.certificates.planted CASE CERTIFICATE` prints the errors of the decoded message on the counted examples.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from d90.models.loading import Model
from d90.tasks import Split, Task

__all__ = ["MODELS", "altered", "planted_model", "random_task"]


def random_task(n: int = 120, twice: bool = False) -> Task:
    """1 x 4 x 4 images whose labels are coins: every classifier errs on half of them; `twice`: each training example twice."""
    generator = torch.Generator().manual_seed(5)

    def split(count: int) -> Split:
        images = torch.randn(count, 1, 4, 4, generator=generator) * 3 + 2
        return Split(images, torch.randint(0, 2, (count,), generator=generator))

    train = split(n)
    if twice:
        train = Split(torch.cat([train.inputs, train.inputs]), torch.cat([train.labels, train.labels]))  # type: ignore[list-item]
    return Task("coins", "classification", ("a", "b"), "accuracy", train, split(60), split(60))


class DropsAlways(nn.Module):
    """Dropout that never looks at self.training."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.2, training=True)


class StaysTraining(nn.BatchNorm1d):
    """Running statistics that no eval() stops."""

    def train(self, mode: bool = True) -> StaysTraining:
        return super().train(True)


class Crops(nn.Module):
    """A random crop in the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        top = int(torch.randint(0, 2, ()))
        return x[:, :, top : top + 3, :3]


class Jitters(nn.Module):
    """Noise from numpy, from Python, or from a generator of its own."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.own = source, torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.source == "numpy":
            return x + float(numpy.random.rand())
        if self.source == "python":
            return x + random.random()
        return x + torch.rand(x.shape[1], generator=self.own)


class Remembers(nn.Module):
    """A running mean that is no buffer: an attribute that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(16)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(dim=0)
        return x - self.mean


class MovesAFrozenWeight(nn.Module):
    """A frozen parameter that the forward pass writes while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.shift.data.mul_(0.5).add_(0.5 * x.detach().mean(dim=0))
        return x - self.shift


class Observes(nn.Module):
    """A quantisation observer that is never frozen: its range grows while it is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

        self.quantise = FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=15)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.quantise(x)
        return result


def _spectral() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))


def _before(part: nn.Module, width: int = 16) -> Callable[[], list[nn.Module]]:
    return lambda: [nn.Flatten(), part, nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 2)]


MODELS: dict[str, Callable[[], list[nn.Module]]] = {
    "plain": lambda: [nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 2)],
    "batch norm": lambda: _before(nn.BatchNorm1d(16))(),
    "batch norm of images": lambda: [nn.BatchNorm2d(1), *MODELS["plain"]()],
    "instance norm": lambda: [nn.InstanceNorm2d(1, track_running_stats=True), *MODELS["plain"]()],
    "group norm": lambda: [nn.GroupNorm(1, 1), *MODELS["plain"]()],
    "spectral norm": lambda: _before(_spectral())(),
    "old spectral norm": lambda: _before(nn.utils.spectral_norm(nn.Linear(16, 16)))(),
    "attribute": lambda: _before(Remembers())(),
    "frozen weight": lambda: _before(MovesAFrozenWeight())(),
    "dropout": lambda: _before(nn.Dropout(0.2))(),
    "dropout at evaluation": lambda: _before(DropsAlways())(),
    "random crop": lambda: [Crops(), nn.Flatten(), nn.Linear(9, 2)],
    "numpy noise": lambda: _before(Jitters("numpy"))(),
    "python noise": lambda: _before(Jitters("python"))(),
    "noise of its own": lambda: _before(Jitters("own"))(),
    "batch statistics": lambda: _before(nn.BatchNorm1d(16, track_running_stats=False))(),
    "running statistics at evaluation": lambda: _before(StaysTraining(16))(),
    "observer": lambda: _before(Observes())(),
}


def planted_model(case: str) -> Model:
    """The model of that name with the same weights in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(*MODELS[case]())
    return Model(case, module, None, tuple(name for name, _ in module.named_parameters()), None)


def errors_of(case: str, body: dict[str, Any]) -> int:
    """The decoded message's errors, by nothing of the certificates' code."""
    import d90
    from d90.analysis import coding

    module, task, best = planted_model(case).module, random_task(), body["best"]
    space = d90.Subspace(module, best["d"], seed=body["recipe"]["seed"])
    with torch.no_grad():
        space.theta.copy_(coding.decode(bytes.fromhex(best["payload"])).vector())
        outputs = module.eval()(task.train.inputs)
    return int((outputs.argmax(dim=1) != task.train.labels).sum())


def altered(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A certificate with another value (or a function of the old one) at a path such as best.errors."""
    changed = json.loads(json.dumps(body))
    place = changed
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value(place[last]) if callable(value) else value
    return changed


if __name__ == "__main__":
    print(errors_of(sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))))
