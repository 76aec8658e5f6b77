"""What one batch adds to each layer: rows grouped by tune, and tunes with as many rows in one batched product.

    y[rows] += bmm(bmm(x[rows], A^T), c B^T)        A^T (tunes, inputs, r), c B^T (tunes, r, outputs)

r is the largest rank among them; lower ones are padded with zeros. The base's own product is made once for all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from d90.errors import InputError
from d90.serving.changes import Change, Changes, norm_eps

__all__ = ["Plan", "make_plan"]

_Rows = Tensor | None  # None for every row in its order


@dataclass(frozen=True)
class Product:
    """Factors of tunes that have as many rows each; one factor for a dense change, two for a low-rank one."""

    rows: _Rows
    factors: tuple[Tensor, ...]

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y + the change's product with x, for these rows."""
        picked = x if self.rows is None else x.index_select(0, self.rows)
        z = picked.reshape(len(self.factors[0]), -1, x.shape[-1]).to(self.factors[0].dtype)
        for factor in self.factors[:-1]:
            z = torch.bmm(z, factor)
        last = self.factors[-1]
        if self.rows is None and z.dtype == y.dtype:
            return torch.baddbmm(y.reshape(*z.shape[:2], -1), z, last).view(y.shape)
        return _added(y, self.rows, torch.bmm(z, last).view(*picked.shape[:-1], -1))


@dataclass(frozen=True)
class Between:
    """Small squares of tunes that have as many rows each, between two factors that all share; of an embedding the first is looked up."""

    rows: _Rows
    down: Tensor
    middles: Tensor  # (tunes, q, q)
    up: Tensor
    padding: int | None = None

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y + the change's product with x, or its rows for the ids x."""
        picked = x if self.rows is None else x.index_select(0, self.rows)
        looked_up = not picked.is_floating_point()
        z = self.down[picked] if looked_up else picked.to(self.down.dtype) @ self.down
        if looked_up and self.padding is not None:
            z = z.masked_fill((picked == self.padding)[..., None], 0)
        z = torch.bmm(z.reshape(len(self.middles), -1, z.shape[-1]), self.middles).view(z.shape)
        return _added(y, self.rows, z @ self.up)


@dataclass(frozen=True)
class Shift:
    """Vectors (rows, outputs), one a row: biases, or with `eps` the gains of a LayerNorm, or an RMSNorm where not `centred`."""

    rows: _Rows
    vectors: Tensor
    eps: float | None = None
    centred: bool = True

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """y + the rows' vectors, or + their products with x normalised."""
        shift = self.vectors.view(len(self.vectors), *[1] * (y.dim() - 2), -1)
        if self.eps is not None:
            picked = x if self.rows is None else x.index_select(0, self.rows)
            normalised = functional.layer_norm if self.centred else functional.rms_norm
            shift = normalised(picked, picked.shape[-1:], eps=self.eps) * shift
        return _added(y, self.rows, shift)


_Step = Product | Between | Shift


@dataclass
class Plan:
    """A batch of `count` rows: for each layer that any of its tunes changes, what is added there.

    Attributes:
        called: the layers that were run since the batch began.
    """

    count: int
    layers: dict[str, list[_Step]]
    called: set[str] = field(default_factory=set)

    def add(self, name: str, x: Tensor, y: Tensor, flat: bool) -> Tensor:
        """The outputs of layer `name` with each row's own change.

        Raises:
            InputError: the layer does not see the batch's rows, one by one along its first dimension.
        """
        if not x.is_floating_point() and len(x) == 1:  # the same places for every row
            x, y = x.expand(self.count, *x.shape[1:]), y.expand(self.count, *y.shape[1:])
        if len(x) != self.count or x.dim() < (2 if flat else 3):
            raise InputError(
                f"layer '{name}' was called with inputs of shape {tuple(x.shape)} in a batch of {self.count} rows; expected "
                f"{self.count} along the first dimension, and then tokens. This architecture mixes rows there: switch with bank.use()"
            )
        self.called.add(name)
        for step in self.layers[name]:
            y = step.add(x, y)
        return y

    def check_all_called(self) -> None:
        """Refuse outputs that lack a part of a tune.

        Raises:
            InputError: a layer that was not run as a module, as some fused paths do.
        """
        missing = next((name for name in self.layers if name not in self.called), None)
        if missing is not None:
            raise InputError(
                f"layer '{missing}' was not called in the forward pass, so what tunes change there is missing; expected every "
                "layer run as a module. Likely cause: a fused attention path. Switch with bank.use()"
            )


def make_plan(model: nn.Module, rows: Sequence[str | None], tunes: Mapping[str, Changes]) -> Plan:
    """Group the rows, each named by its tune or None for the base, layer by layer."""
    places: dict[str, list[int]] = {}
    for i, tune in enumerate(rows):
        if tune is not None:
            places.setdefault(tune, []).append(i)
    device = next(model.parameters()).device
    layers: dict[str, list[_Step]] = {}
    for name in dict.fromkeys(name for tune in places for name in tunes[tune]):
        with_change = [(tunes[tune][name], where) for tune, where in places.items() if name in tunes[tune]]
        module = model.get_submodule(name)
        layers[name] = _steps(with_change, len(rows), device, module)
    return Plan(len(rows), layers)


def _steps(
    tunes: Sequence[tuple[Change, list[int]]], count: int, device: torch.device, module: nn.Module
) -> list[_Step]:
    def rows_of(places: Sequence[list[int]]) -> _Rows:
        flat = [i for place in places for i in place]
        return None if flat == list(range(count)) else torch.tensor(flat, device=device)

    steps: list[_Step] = []
    for size in sorted({len(where) for _, where in tunes}):
        alike = [(change, where) for change, where in tunes if len(where) == size]
        low = [
            (change.down, change.up, where)
            for change, where in alike
            if change.down is not None and change.middle is None
        ]
        if low:
            r = max(down.shape[1] for down, _, _ in low)
            down = torch.stack([functional.pad(down, (0, r - down.shape[1])) for down, _, _ in low])
            up = torch.stack([functional.pad(up, (0, 0, 0, r - len(up))) for _, up, _ in low if up is not None])
            steps.append(Product(rows_of([where for _, _, where in low]), (down.to(device), up.to(device))))
        steps += _between([(c, where) for c, where in alike if c.middle is not None], rows_of, module)
        dense = [(change.weight, where) for change, where in alike if change.weight is not None]
        if dense:
            weights = torch.stack([weight for weight, _ in dense]).to(device)
            steps.append(Product(rows_of([where for _, where in dense]), (weights,)))
    for key in ("gain", "bias"):
        vectors = [(getattr(change, key), where) for change, where in tunes if getattr(change, key) is not None]
        if vectors:
            each = torch.stack([vector for vector, where in vectors for _ in where]).to(device)
            eps = norm_eps(module) if key == "gain" else None
            steps.append(Shift(rows_of([where for _, where in vectors]), each, eps, isinstance(module, nn.LayerNorm)))
    return steps


def _between(
    tunes: Sequence[tuple[Change, list[int]]], rows_of: Callable[[Sequence[list[int]]], _Rows], module: nn.Module
) -> list[_Step]:
    """A step for each pair of shared factors."""
    pairs: dict[int, list[tuple[Change, list[int]]]] = {}
    for change, where in tunes:
        pairs.setdefault(id(change.down), []).append((change, where))
    steps: list[_Step] = []
    for alike in pairs.values():
        down, up = alike[0][0].down, alike[0][0].up
        assert down is not None
        assert up is not None
        middles = torch.stack([change.middle for change, _ in alike if change.middle is not None])
        padding = getattr(module, "padding_idx", None)
        steps.append(Between(rows_of([where for _, where in alike]), down, middles, up, padding))
    return steps


def _added(y: Tensor, rows: _Rows, delta: Tensor) -> Tensor:
    """y + delta in these rows, in y's type."""
    if rows is None:
        return (y + delta).to(y.dtype)
    return y.index_copy(0, rows, (y.index_select(0, rows) + delta).to(y.dtype))
