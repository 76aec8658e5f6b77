"""The small image networks of Li et al. 2018, trained from scratch: fc, lenet, and fully connected ones of any widths."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from d90.errors import InputError
from d90.models.fresh import initialise
from d90.models.model import Model

__all__ = ["image_net", "is_image_net", "plain_net"]


def _lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def _mlp(widths: Sequence[int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def is_image_net(name: str) -> bool:
    """Whether a model's name is one of these networks'."""
    return name in ("fc", "lenet") or name.startswith("mlp:")


def plain_net(name: str) -> tuple[nn.Module, int, int]:
    """(the network as torch draws it, how many values it takes, its outputs).

    Raises:
        InputError: impossible widths.
    """
    if name == "lenet":
        return _lenet(), 784, 10
    text = "784-200-200-10" if name == "fc" else name.removeprefix("mlp:")
    widths = [int(part) if part.isdecimal() else 0 for part in text.split("-")]
    if len(widths) < 2 or min(widths) < 1:
        raise InputError(f"got model '{name}', expected widths such as mlp:784-200-200-10")
    return _mlp(widths), widths[0], widths[-1]


def image_net(name: str, outputs: int, seed: int) -> Model:
    """A network by its name.

    Raises:
        InputError: impossible widths, or other outputs than the task has.
    """
    module, first, last = plain_net(name)
    if last != outputs:
        raise InputError(f"model '{name}' has {last} outputs and the task needs {outputs}; expected them to be equal")
    names = tuple(name for name, _ in module.named_parameters())
    initialise(module, names, seed)
    module.register_forward_pre_hook(_SizeCheck(name, first))
    earlier = hashlib.sha256(repr(module).encode()).hexdigest()[:16]
    return Model(name, module, None, names, None, seed, earlier=earlier)


class _SizeCheck:
    """Refuses images of another size than the network's, before torch does so in its own words."""

    def __init__(self, name: str, values: int) -> None:
        self.name, self.values = name, values

    def __call__(self, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        shape = tuple(args[0].shape[1:]) if args else (self.values,)
        values = math.prod(shape)
        if values != self.values or (self.name == "lenet" and args and shape != (1, 28, 28)):
            raise InputError(
                f"model '{self.name}' takes images of {self.values} values, and the task's are {shape}, of {values}; "
                f"choose a network of that width, mlp:{values}-...-O"
            )
