"""Bytes of a training step without its numbers: a network whose tensors are shapes alone runs, and what it allocates is counted.

    peak = max over time of the sum of all tensors that are alive       forward, loss and backward of one batch

Every operation is dispatched as on the processor, so that what autograd keeps is what it keeps in a run; scratch inside of an operation
is not seen.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d90.subspace import layout

__all__ = ["Footprint", "emptied", "fold_gradients", "peak_of", "size_of"]


class Footprint(TorchDispatchMode):
    """Counts the storages that operations make while it is entered.

    Args:
        block: sizes are rounded up to a multiple of so many bytes, as an allocator does.

    Attributes:
        peak: the most bytes that were alive at a time.
    """

    def __init__(self, block: int = 1) -> None:
        super().__init__()
        self.peak = 0
        self._block, self._now = block, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):
            self._note(storage, 0)  # was there before, as weights are
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            self._note(storage, math.ceil(storage.nbytes() / self._block) * self._block)
        return made

    def _note(self, storage: torch.UntypedStorage, size: int) -> None:
        place = id(storage)
        if place in self._known:
            return
        self._known.add(place)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._freed, place, size)

    def _freed(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def emptied(module: nn.Module) -> AbstractContextManager[Any]:
    """Put shapes in place of a network's tensors, in place; it then runs inside the context that is returned."""
    mode = FakeTensorMode()
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for places in (part._parameters, part._buffers):
            for key, held in places.items():
                if held is None:
                    continue
                if id(held) not in made:
                    with mode:
                        shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="cpu")
                    is_weight = isinstance(held, nn.Parameter)
                    made[id(held)] = nn.Parameter(shape, held.requires_grad) if is_weight else shape
                places[key] = made[id(held)]  # type: ignore[assignment]
    return mode


def fold_gradients(module: nn.Module) -> None:
    """Let gradients be as under a subspace: each is folded and freed as soon as it is there, those of embeddings have a batch's rows."""
    moved = list(layout.trainable(module).values())
    for embedding in layout.lone_embeddings(module, moved):
        embedding.weight.requires_grad_(False)
        embedding.register_forward_hook(lambda _module, _inputs, output: output.requires_grad_())
    for parameter in layout.trainable(module).values():
        parameter.register_post_accumulate_grad_hook(_drop)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of these tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak_of(run: Callable[[], object], block: int = 1) -> int:
    """The most bytes alive at a time while `run` runs, above what was there before."""
    with Footprint(block) as seen:
        run()
    return seen.peak
