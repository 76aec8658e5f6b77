"""Which k weights a sparse fine-tune moves: scores, of which the smallest are taken, ties by position.

magnitude      |theta_0|                            PaFi: needs no data, one mask for all tasks (Liao et al. 2023, section 3.1)
fisher         -F, fisher-least F,                  F = (1 / N) sum over N batches of (dL/dtheta)^2 (Sung et al. 2021)
change         -|theta_1 - theta_0|                 theta_1 fully fine-tuned (LT-SFT, Ansell et al. 2022)
random         uniform, from our own bits
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.methods.base import Applied, Context
from d90.methods.sparse import NEEDS_DATA
from d90.models.fresh import draw
from d90.subspace.buffers import Buffers

__all__ = ["eligible", "scores", "smallest"]


def eligible(applied: Applied) -> dict[str, nn.Parameter]:
    """The weights a mask may choose from: what the user left trainable, without the task's own head."""
    return {
        name: parameter
        for name, (parameter, flag) in applied.flags.items()
        if flag and name not in applied.head and parameter.is_floating_point() and parameter.numel()
    }


def scores(mask: str, applied: Applied, context: Context, batches: int) -> list[Tensor]:
    """A flat score for every eligible weight, tensor by tensor; infinite for padding rows, which no gradient reaches.

    Raises:
        InputError: a mask that looks at data, and there is none.
    """
    named = eligible(applied)
    if mask in NEEDS_DATA and (context.losses is None or context.fine_tune is None):
        raise InputError(
            f"sparse:mask={mask} looks at the training data and there is none here; expected a training run. Use d90.train, or "
            "mask=magnitude or mask=random, which need none"
        )
    if mask == "magnitude":
        found = [p.detach().abs().float() for p in named.values()]
    elif mask == "random":
        found = [draw(f"sparse.random:{name}", p.shape, context.seed, uniform=True) for name, p in named.items()]
    elif mask == "change":
        found = [-change for change in _changes(applied, context, list(named.values()))]
    else:
        sign = 1.0 if mask == "fisher-least" else -1.0
        found = [sign * value for value in _fisher(applied, context, list(named.values()), batches)]
    padding = {
        id(module.weight): module.padding_idx
        for module in applied.model.modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    for score, parameter in zip(found, named.values(), strict=True):
        if id(parameter) in padding and not score.is_meta:
            score[padding[id(parameter)]] = math.inf
    return [score.reshape(-1) for score in found]


def smallest(found: Sequence[Tensor], k: int) -> list[Tensor]:
    """Positions of the k smallest scores over all tensors, ascending in each; equal scores in the order of position.

    No more than min(k, n) candidates of each tensor of n are held, never a permutation of them all.

    Raises:
        InputError: k below 1 or above the number of finite scores.
    """
    free = sum(int(torch.isfinite(score).sum()) for score in found)
    if not 1 <= k <= free:
        raise InputError(
            f"got k={k}, expected 1 ... {free}, the weights a mask may choose from here (head and padding left out)"
        )
    candidates = torch.cat([torch.topk(score, min(k, len(score)), largest=False, sorted=False)[0] for score in found])
    threshold = torch.kthvalue(candidates, k).values
    below = [torch.nonzero(score < threshold).view(-1) for score in found]
    left = k - sum(map(len, below))
    chosen = []
    for score, sure in zip(found, below, strict=True):
        ties = torch.nonzero(score == threshold).view(-1)[:left]
        left -= len(ties)
        chosen.append(torch.cat((sure, ties)).sort().values)
    return chosen


def _fisher(applied: Applied, context: Context, parameters: list[nn.Parameter], batches: int) -> list[Tensor]:
    assert context.losses is not None
    total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
    flags, buffers = [(p, p.requires_grad) for p in applied.model.parameters()], Buffers(applied.model)
    seen = 0
    try:
        for p in parameters:
            p.requires_grad_(True)
        for loss in context.losses(batches):
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for place, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    place.add_(gradient.detach().float().square())
            seen += 1
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
        buffers.restore()  # the passes over batches have moved running statistics
    if seen == 0:
        raise InputError("sparse:mask=fisher got no batches, expected at least one; the training split is empty")
    return [place / seen for place in total]


@torch.no_grad()
def _changes(applied: Applied, context: Context, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Fine-tune everything, note the changes, and put every weight and buffer back."""
    assert context.fine_tune is not None
    held, buffers = [p for p, _ in applied.flags.values()], Buffers(applied.model)
    before = [tensor.detach().clone() for tensor in held]
    kept = {id(tensor): value for tensor, value in zip(held, before, strict=True)}
    gradients = [(p, p.grad) for p, _ in applied.flags.values()]
    try:
        with torch.enable_grad():
            context.fine_tune()
        return [(p.detach() - kept[id(p)]).abs().float() for p in parameters]
    finally:
        for tensor, value in zip(held, before, strict=True):
            tensor.copy_(value)
        buffers.restore()
        for parameter, gradient in gradients:
            parameter.grad = gradient
