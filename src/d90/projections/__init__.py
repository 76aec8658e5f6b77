"""Random projections P: R^d -> R^D with unit columns in expectation. A new one joins by a line in `PROJECTIONS`."""

from __future__ import annotations

from collections.abc import Sequence

from d90.errors import unknown_name
from d90.projections.base import Projection
from d90.projections.dense import Dense
from d90.projections.fastfood import Fastfood
from d90.projections.onehot import OneHot
from d90.projections.sparse import Sparse

__all__ = ["PROJECTIONS", "Dense", "Fastfood", "OneHot", "Projection", "Sparse", "build"]

PROJECTIONS: dict[str, type[Projection]] = {kind.name: kind for kind in (Dense, Sparse, Fastfood, OneHot)}


def build(spec: str, d: int, sizes: int | Sequence[int], seed: int = 0) -> Projection:
    """Make a projection from its name, or `name:entries` as in "fastfood:gaussian".

    Raises:
        InputError: an unknown name, entries the projection does not have, or d outside 1 ... D.
    """
    name, _, entries = spec.partition(":")
    if name not in PROJECTIONS:
        raise unknown_name("projection", name, PROJECTIONS)
    return PROJECTIONS[name](d, sizes, seed, entries or None)
