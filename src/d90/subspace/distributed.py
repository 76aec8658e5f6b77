"""Data parallel: before each optimizer step the gradients of theta are averaged over the processes.

    g = (1 / N) sum_r g_r        d numbers in, d numbers out; nothing of size D travels

A ring moves 2 (N - 1) / N times 4 d bytes per process: 4 d at two. Every process holds the whole model and draws P from
the seed, so neither weights nor P are ever sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from d90.errors import InputError, UnsupportedModelError

__all__ = ["Exchange", "digest", "processes", "refuse_wrapped"]


def processes() -> int:
    """How many processes train together; 1 where torch.distributed was not initialised."""
    return torch.distributed.get_world_size() if _initialised() else 1


class Exchange:
    """An optimizer's step pre-hook: averages the gradients of `parameters` over the processes.

    Args:
        parameters: what is averaged; one without a gradient counts as zero, so a process may sit a batch out.
        mark: what must be the same everywhere, asked before the first step; 8 bytes of it are compared, once.

    Raises:
        InputError: from a step: a closure was given, or the processes differ in `mark`.
    """

    def __init__(self, parameters: Callable[[], Iterable[nn.Parameter]], mark: Callable[[], str]) -> None:
        self._parameters, self._mark = parameters, mark
        self._agreed = False

    def __call__(self, optimizer: Optimizer, args: Sequence[object], kwargs: dict[str, object]) -> None:
        count = processes()
        if count == 1:
            return
        if any(callable(given) for given in (*args[1:], *kwargs.values())):
            raise InputError(
                "got optimizer.step(closure) on several processes, expected step() alone: the closure's gradients would come "
                "after the exchange. Call backward() yourself, and take an optimizer such as Adam or SGD"
            )
        parameters = list(self._parameters())
        if not self._agreed:
            _agree(self._mark(), parameters[0].device)
            self._agreed = True
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= count


def digest(settings: str, tensors: Iterable[Tensor]) -> str:
    """A hash of settings and of numbers, bit for bit."""
    digest = hashlib.sha256(settings.encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def refuse_wrapped(model: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Refuse a model around which a wrapper was put after its Subspace was made.

    Raises:
        UnsupportedModelError: DistributedDataParallel is running the model, or FSDP has sharded its weights.
    """
    if not _initialised():
        return
    active = nn.parallel.DistributedDataParallel._get_active_ddp_module()
    wrapper = ""
    if active is not None and any(part is model for part in active.modules()):
        wrapper = "DistributedDataParallel"
    elif any(getattr(t, "_fsdp_flattened", False) for t in tensors[:1]) or _sharded(model):
        wrapper = "FullyShardedDataParallel"
    if wrapper:
        raise UnsupportedModelError(
            f"the model under this Subspace was wrapped in {wrapper}, expected the plain model on each process: the wrapper would "
            "exchange D gradients, or take the weights away. Likely cause: accelerator.prepare(model). Prepare the optimizer and "
            "the data alone; space.attach(optimizer) averages the d numbers"
        )


def _initialised() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _sharded(model: nn.Module) -> bool:
    """Whether FSDP of either kind took the parameters away, or put others in."""
    first = next(model.parameters(), None)
    flat = first is None or getattr(first, "_is_flat_param", False)
    flat = flat or any(kind.__name__ == "FSDPModule" for kind in type(model).__mro__)
    return flat or type(first).__name__ == "DTensor" or hasattr(first, "device_mesh")


def _agree(mark: str, device: torch.device) -> None:
    """Refuse processes that train different things: their average would mean nothing."""
    mine = torch.tensor([int(mark[:15], 16)], device=device)
    marks = [torch.zeros_like(mine) for _ in range(processes())]
    torch.distributed.all_gather(marks, mine)
    differ = [rank for rank, theirs in enumerate(marks) if int(theirs) != int(marks[0])]
    if differ:
        raise InputError(
            f"processes {differ} have another subspace than process 0, expected the same base weights, d, seed, options and theta. "
            "Likely cause: fresh weights drawn from a seed that depends on the rank; seed all processes alike before the model "
            "is made"
        )
