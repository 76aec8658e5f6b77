"""Sparse fine-tuning: k weights move, the rest of every tensor stays (Liao et al. 2023, section 3.1: PaFi).

    theta = theta_0 + S phi        S (D, k) picks coordinates; phi in R^k

`pafi:fraction=0.005` is short for `sparse:mask=magnitude,fraction=0.005`. A mask that needs no data is found again on
loading, so a file holds k values and no indices; one that looked at data is stored with its indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from d90.errors import InputError, unknown_name
from d90.methods.base import Applied, Context, Inserting
from d90.methods.module_state import holders, module_state

if TYPE_CHECKING:
    from torch import Tensor, nn

    from d90.methods.modules import Masked

__all__ = ["MASKS", "NEEDS_DATA", "PaFi", "SparseMask"]

MASKS = ("magnitude", "fisher", "fisher-least", "change", "random")
NEEDS_DATA = ("fisher", "fisher-least", "change")
FRACTION = 0.005  # of the weights, where neither a share nor a count is given


@dataclass(frozen=True)
class SparseMask(Inserting):
    """`k` weights, or a `fraction` of them, the smallest by `mask` over all tensors or in each (`per`); and the head."""

    name: ClassVar[str] = "sparse"
    summary: ClassVar[str] = (
        "k weights chosen by a mask (magnitude, fisher, fisher-least, change, random), and the head"
    )
    over_packed: ClassVar[bool] = False

    mask: str = "magnitude"
    fraction: float | None = None
    k: int | None = None
    per: Literal["global", "tensor"] = "global"
    batches: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask not in MASKS:
            raise unknown_name("mask of sparse", self.mask, MASKS)
        if self.k is not None and self.fraction is not None:
            raise InputError(f"sparse: got k={self.k} and fraction={self.fraction}, expected one of the two")
        fraction = FRACTION if self.k is None and self.fraction is None else self.fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise InputError(f"sparse: got fraction={fraction}, expected a share of the weights, 0 < fraction <= 1")
        for name, value in (("k", self.k), ("batches", self.batches)):
            if value is not None and value < 1:
                raise InputError(f"sparse: got {name}={value}, expected at least 1")
        self._settle(fraction=None if fraction is None else float(fraction))

    @property
    def looks_at_data(self) -> bool:  # type: ignore[override]
        return self.mask in NEEDS_DATA

    def insert(self, applied: Applied, context: Context) -> None:
        from torch.nn.utils import parametrize

        from d90.methods.masks import eligible
        from d90.methods.modules import Masked

        named = eligible(applied)
        if not named:
            raise InputError(f"'{self}' found no weights to choose from: all but the head are frozen; unfreeze some")
        chosen = self._chosen(applied, context)
        give_back = module_state(applied.model)
        applied.undo.append(give_back)  # the dictionaries' order, once every parametrisation is off
        folds = []
        for parameter, indices in zip(named.values(), chosen, strict=True):
            if len(indices) == 0:
                continue
            applied.claim(self, [parameter])
            part = Masked(parameter, indices, stored=self.looks_at_data)
            for _, module, key in holders(applied.model, parameter):
                parametrize.register_parametrization(module, key, part, unsafe=True)
                applied.undo.append(partial(_off, module, key))
                folds.append(partial(_off, module, key, part))
        applied.fold += [give_back, *folds]

    def _chosen(self, applied: Applied, context: Context) -> list[Tensor]:
        import torch

        from d90.methods.masks import eligible, scores, smallest

        named = eligible(applied)
        if context.stored is not None and self.looks_at_data:
            return [self._read(applied, context, parameter) for parameter in named.values()]
        found = scores(self.mask, applied, context, self.batches)
        if any(score.is_meta for score in found):
            return _evenly(found, self._count(sum(map(len, found))))  # shapes alone: any k will do to count them
        free = [int(torch.isfinite(score).sum()) for score in found]
        k = self._count(sum(free))
        if self.per == "global":
            return smallest(found, k)
        if k > sum(free):
            smallest(found, k)
        shares = _shares(free, k)
        return [
            smallest([s], n)[0] if n else s.new_empty(0, dtype=torch.int64) for s, n in zip(found, shares, strict=True)
        ]

    def _count(self, total: int) -> int:
        return self.k if self.k is not None else max(1, round((self.fraction or FRACTION) * total))

    def _read(self, applied: Applied, context: Context, parameter: nn.Parameter) -> Tensor:
        """The stored mask of one tensor."""
        import torch

        assert context.stored is not None
        place, _, key = holders(applied.model, parameter)[0]
        path = ".".join(filter(None, (place, "parametrizations", key, "0", "indices")))
        indices = context.stored.get(f"buffer:{path}", torch.empty(0, dtype=torch.int32)).long()
        ordered = indices.dim() == 1 and bool((indices.diff() > 0).all())
        if not ordered or (len(indices) and not (indices[0] >= 0 and indices[-1] < parameter.numel())):
            raise InputError(
                f"the file's mask of '{path}' is no list of places in it; the file is damaged, or another model's"
            )
        return indices

    def __str__(self) -> str:
        given = {"mask": self.mask, "fraction": self.fraction, "k": self.k, "per": self.per}
        if self.looks_at_data:
            given["batches"] = self.batches
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in given.items() if value is not None)}"


class PaFi(SparseMask):
    """The mask that needs no data: the weights of smallest magnitude. What it makes is a `SparseMask`."""

    name: ClassVar[str] = "pafi"
    short_for: ClassVar[str] = "sparse"
    summary: ClassVar[str] = "the k weights of smallest magnitude, and the head; short for sparse:mask=magnitude"

    def __new__(  # type: ignore[misc]
        cls, fraction: float | None = None, k: int | None = None, per: Literal["global", "tensor"] = "global"
    ) -> SparseMask:
        """SparseMask(mask="magnitude", ...)."""
        return SparseMask("magnitude", fraction, k, per)


def _off(module: nn.Module, key: str, part: Masked | None = None) -> None:
    """Take a parametrisation off; with `part`, leave its values in the weight."""
    import torch
    from torch.nn.utils import parametrize

    original = module.parametrizations[key].original  # type: ignore[index,union-attr]
    if part is not None:
        with torch.no_grad():
            original.copy_(part(original))
    parametrize.remove_parametrizations(module, key, leave_parametrized=False)


def _shares(sizes: list[int], k: int) -> list[int]:
    """k over the tensors in proportion to their sizes, by largest remainders, the first where they are equal."""
    exact = [k * size / sum(sizes) for size in sizes]
    shares = [min(int(share), size) for share, size in zip(exact, sizes, strict=True)]
    order = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], i))
    for i in order * 2:
        if sum(shares) == k:
            break
        shares[i] += shares[i] < sizes[i]
    return shares


def _evenly(found: list[Tensor], k: int) -> list[Tensor]:
    import torch

    shares = _shares([len(score) for score in found], k)
    return [torch.arange(share) for share in shares]
