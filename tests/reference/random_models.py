"""Random small models: linear, convolution, LSTM, GRU, norms, attention, scalars, shared, tied, strided and frozen parts.

Every model maps (batch, LENGTH, WIDTH) to the same shape through two to five parts drawn from `PARTS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

WIDTH, LENGTH = 4, 3


class Wrapped(nn.Module):
    """A part with what goes around it."""

    def __init__(self, part: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.part, self.call = part, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.part, x)


class Scalar(nn.Module):
    """A 0-dim parameter, and an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.nothing = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.zeros(0, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.nothing.sum()


class Strided(nn.Module):
    """A transposed weight, and two weights whose columns alternate in one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.randn(WIDTH, WIDTH).t() / 2)
        both = torch.randn(WIDTH, 2 * WIDTH) / 2
        self.even, self.odd = nn.Parameter(both[:, ::2]), nn.Parameter(both[:, 1::2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.turned + torch.tanh(x @ self.even) @ self.odd)


class Tied(nn.Module):
    """One parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def turned(part: nn.Module, x: Tensor) -> Tensor:
    return part(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


def first(part: nn.Module, x: Tensor) -> Tensor:
    return part(x)[0]  # type: ignore[no-any-return]


def attention() -> nn.Module:
    return Wrapped(nn.MultiheadAttention(WIDTH, 2, batch_first=True), lambda part, x: x + part(x, x, x)[0])


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(WIDTH, WIDTH), "weight", amount=5)  # type: ignore[no-any-return,no-untyped-call]


PARTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "convolution": lambda: Wrapped(nn.Conv1d(WIDTH, WIDTH, 3, padding=1), turned),
    "grouped convolution": lambda: Wrapped(nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=2, bias=False), turned),
    "transposed convolution": lambda: Wrapped(nn.ConvTranspose1d(WIDTH, WIDTH, 1), turned),
    "LSTM": lambda: Wrapped(nn.LSTM(WIDTH, WIDTH, batch_first=True), first),
    "bidirectional LSTM": lambda: Wrapped(nn.LSTM(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True), first),
    "GRU": lambda: Wrapped(nn.GRU(WIDTH, WIDTH, batch_first=True), first),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "group norm": lambda: Wrapped(nn.GroupNorm(2, WIDTH), turned),
    "batch norm": lambda: Wrapped(nn.BatchNorm1d(WIDTH, track_running_stats=False), turned),
    "attention": attention,
    "transformer layer": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout=0.0, batch_first=True),
    "PReLU": lambda: nn.PReLU(),
    "scalar": Scalar,
    "strided": Strided,
    "tied": Tied,
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "pruned": pruned,
    "frozen": lambda: nn.Linear(WIDTH, WIDTH).requires_grad_(False),
    "frozen bias": lambda: _without_bias_gradient(nn.Linear(WIDTH, WIDTH)),
}


def _without_bias_gradient(part: nn.Linear) -> nn.Module:
    part.bias.requires_grad_(False)
    return part


def random_model(seed: int) -> nn.Module:
    """The model of a seed; every part is first in some model of 20 seeds in a row, and one part may stand twice (shared)."""
    torch.manual_seed(seed)
    draw, names = random.Random(seed), list(PARTS)
    parts = [PARTS[names[seed % len(names)]]()]
    parts += [PARTS[draw.choice(names)]() for _ in range(draw.randint(1, 3))]
    if draw.random() < 0.3:
        parts.append(draw.choice(parts))
    parts.append(nn.Linear(WIDTH, WIDTH))
    blocks = nn.ModuleList(parts)
    return Wrapped(blocks, _through)


def _through(parts: nn.Module, x: Tensor) -> Tensor:
    for part in parts:  # type: ignore[attr-defined]
        x = part(x)
    return x
