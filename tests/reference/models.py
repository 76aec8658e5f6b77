"""Small models with everything that makes an in-place engine stumble."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WORDS, WIDTH = 11, 10


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Zoo(nn.Module):
    """Tied weights, an embedding, LayerNorm, a convolution, a frozen part, 0-dim, empty, non-contiguous parameters.

    `recompute`: None, "reentrant" or "plain" activation checkpointing of each block.
    """

    def __init__(self, recompute: str | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList([Layer(), Layer()])
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.mix = nn.Parameter(torch.randn(WIDTH, 6).t())
        self.back = nn.Linear(6, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)
        self.head.weight = self.embed.weight
        self.recompute = recompute

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2) * self.gain
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.recompute == "reentrant") if self.recompute else block(x)
        x = self.back(self.frozen(x) @ self.mix.t())
        return self.head(x)


ZOO_LAYERS = {  # what a layer of Zoo is, written down by hand: the name of each trainable tensor -> its layer
    "gain": ("(before)", "(root)"),
    "nothing": ("(before)", "(root)"),
    "mix": ("(before)", "(root)"),
    "embed.weight": ("(before)", "embed"),
    "conv.weight": ("(before)", "conv"),
    "conv.bias": ("(before)", "conv"),
    **{
        f"blocks.{i}.{name}": (f"blocks.{i}", f"blocks.{i}.{name.split('.')[0]}")
        for i in (0, 1)
        for name in ("norm.weight", "norm.bias", "up.weight", "up.bias", "down.weight")
    },
    "back.weight": ("(after)", "back"),
    "back.bias": ("(after)", "back"),
    "head.bias": ("(after)", "head"),
}


def zoo(recompute: str | None = None, seed: int = 0) -> Zoo:
    torch.manual_seed(seed)
    return Zoo(recompute)


def words(count: int = 6, seed: int = 1) -> Tensor:
    return torch.randint(WORDS, (count, 5), generator=torch.Generator().manual_seed(seed))


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Predict each word from itself, shifted by one: a loss every parameter has a gradient for."""
    logits = model(inputs)
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), ((inputs + 1) % WORDS).flatten())


class Normed(nn.Module):
    """With BatchNorm: buffers that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU())
        self.classifier = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x))
