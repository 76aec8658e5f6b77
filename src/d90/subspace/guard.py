"""What else moves the weights of a Subspace, or decides which ones move, is noticed and refused by name.

In-place operations of torch are noticed by version counters, before every forward pass. What those miss (`.data`, numpy,
fused optimizers) is noticed where it shows in a sample of `SAMPLE` numbers of each tensor, compared before every write:
a change of a whole tensor always does, a change of a few numbers may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from d90.errors import UnsupportedModelError
from d90.subspace import layout, support

__all__ = ["Guard"]

SAMPLE = 16  # numbers of each tensor
ON_A_GPU = 16  # there one write in so many is sampled: a sample waits for the device


class Guard:
    """Watches the trained tensors of `model` between two writes.

    Args:
        model: under the Subspace.
        names, tensors: what it moves.
        head: names of what is trained beside it.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], tensors: Sequence[Tensor], head: Iterable[str]) -> None:
        self._model, self._names, self._tensors = model, names, tensors
        self._places = layout.places(model, names)
        trained = {id(tensor) for tensor in tensors}
        outside = set(head)
        self._head = {id(p) for name, p in model.named_parameters() if name in outside}
        self._frozen = [(n, p) for n, p in model.named_parameters() if id(p) not in trained and n not in outside]
        self.others = True  # whether parameters beside the subspace must stay frozen
        self._counts = self._count()
        short = support.renormed(model)  # their rows are shortened at each lookup, and again after each write
        self._watched = [i for i, tensor in enumerate(tensors) if id(tensor) not in short]
        self._versions: list[int] | None = None
        self._pointers: list[int] = []
        self._views: list[list[Tensor]] = []
        self._seen: list[Tensor] | None = None
        self._writes = 0

    # --- which parameters ------------------------------------------------------------------------------------------

    def check_places(self) -> None:
        """Refuse a model in which a parameter was replaced.

        Raises:
            UnsupportedModelError: its name.
        """
        for holder, name, what in self._places:
            if holder.get(name) is what:
                continue
            now = dict(self._model.named_parameters(remove_duplicate=False))
            if all(now.get(n) is tensor for n, tensor in zip(self._names, self._tensors, strict=True)):
                self._places = layout.places(
                    self._model, self._names
                )  # BigBird puts the same weights into another module
                return
            raise UnsupportedModelError(
                f"'{name}' was replaced under a Subspace, which would go on moving the old one; expected the same "
                "parameters. Likely cause: resize_token_embeddings(), a new head, functional_call(), or FSDP. Change the "
                "model first."
            )

    def check_flags(self) -> None:
        """Refuse a training pass in which other parameters require gradients than when the Subspace was made.

        Raises:
            UnsupportedModelError: the name of the first.
        """
        frozen = [not tensor.requires_grad for tensor in self._tensors]
        if any(frozen):
            if all(frozen):
                return  # switched off as a whole; torch refuses a backward pass by itself
            self._refuse_flag(self._names[frozen.index(True)], "no longer requires gradients, but would go on moving")
        if not self.others:
            return
        for name, parameter in self._frozen:
            if parameter.requires_grad:
                self._refuse_flag(name, "requires gradients now, but would never move")
        if self._count() != self._counts:
            known = {id(parameter) for _, parameter in self._frozen} | {id(tensor) for tensor in self._tensors}
            known |= self._head
            for name, parameter in self._model.named_parameters():
                if parameter.requires_grad and id(parameter) not in known:
                    self._refuse_flag(name, "is new and requires gradients, but would never move")
            self._counts = self._count()

    def _refuse_flag(self, name: str, what: str) -> None:
        raise UnsupportedModelError(
            f"parameter '{name}' {what}: requires_grad was changed under a Subspace, expected the flags it was made with. "
            "Call release(), set requires_grad, and make the Subspace again."
        )

    def _count(self) -> int:
        return sum(len(module._parameters) + len(module._modules) for module in self._model.modules())

    # --- which values ----------------------------------------------------------------------------------------------

    def note(self) -> None:
        """Take the weights as they are now for what they must be until the next write."""
        with torch.inference_mode(False), torch.no_grad():
            self._versions = [self._tensors[i]._version for i in self._watched]
            self._writes += 1
            on_gpu = bool(self._watched) and self._tensors[self._watched[0]].is_cuda
            self._seen = None if on_gpu and self._writes % ON_A_GPU else self._sample()

    def forget(self) -> None:
        """Take whatever the weights are for right, until the next `note`."""
        self._versions = self._seen = None

    def check_versions(self, expected: Callable[[int], Tensor | None]) -> None:
        """Refuse weights that an operation of torch has changed.

        Args:
            expected: what a tensor should hold; None where that is unknown. Equal numbers are taken.

        Raises:
            UnsupportedModelError: the name of the first.
        """
        if self._versions is None:
            return
        now = [self._tensors[i]._version for i in self._watched]
        if now == self._versions:
            return
        for place, (old, new) in enumerate(zip(self._versions, now, strict=True)):
            if old != new:
                index = self._watched[place]
                right = expected(index)
                if right is None or not _bits_equal(right, self._tensors[index].detach()):
                    self._refuse_change(index)
        self._versions = now

    def check_sample(self) -> None:
        """Refuse weights whose sample has changed.

        Raises:
            UnsupportedModelError: the name of the first.
        """
        if self._seen is None:
            return
        with torch.inference_mode(False), torch.no_grad():
            seen, now = self._seen, self._sample()
            for old, new in zip(seen, now, strict=True):
                if not _bits_equal(old.to(new.device), new):
                    self._refuse_change(self._first_difference(seen, now))

    def _refuse_change(self, index: int) -> None:
        raise UnsupportedModelError(
            f"parameter '{self._names[index]}' was changed under a Subspace, whose next step would undo that; expected weights "
            "that theta alone moves. Likely cause: load_state_dict(), a loop over model.parameters(), an initialiser. Change the "
            "model before the Subspace is made, or after release(); to go on with a run, load theta (Subspace.load)."
        )

    def _sample(self) -> list[Tensor]:
        pointers = [self._tensors[i].data_ptr() for i in self._watched]
        if pointers != self._pointers:
            groups: dict[torch.dtype, list[Tensor]] = {}
            for i in self._watched:
                groups.setdefault(self._tensors[i].dtype, []).append(_strided(self._tensors[i].detach()))
            self._views, self._pointers = list(groups.values()), pointers
        return [torch.cat(views) for views in self._views]

    def _first_difference(self, seen: Sequence[Tensor], now: Sequence[Tensor]) -> int:
        kinds = list(dict.fromkeys(self._tensors[i].dtype for i in self._watched))
        for kind, old, new, views in zip(kinds, seen, now, self._views, strict=True):
            indices = [i for i in self._watched if self._tensors[i].dtype == kind]
            parts = zip(
                indices, *(x.split([len(view) for view in views]) for x in (old.to(new.device), new)), strict=True
            )
            for index, before, after in parts:
                if not _bits_equal(before, after):
                    return index
        return self._watched[0]


def _strided(tensor: Tensor) -> Tensor:
    """A view (k,) of at most SAMPLE of a tensor's numbers, spread over it."""
    if tensor.is_contiguous():
        tensor = tensor.view(-1)
    else:  # along its longest dimension, in the middle of the others
        longest = max(range(tensor.dim()), key=lambda i: tensor.shape[i])
        for i in reversed(range(tensor.dim())):
            tensor = tensor if i == longest else tensor.select(i, tensor.shape[i] // 2)
    return tensor[:: max(1, -(-len(tensor) // SAMPLE))]


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits_equal(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself."""
    kind = _INTEGERS[a.element_size()]
    return torch.equal(a.reshape(-1).view(kind), b.reshape(-1).view(kind))
