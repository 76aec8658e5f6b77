"""Random projections P: R^d -> R^D with unit columns in expectation.

One joins by `register_projection`, or from an installed package by an entry point of the group `d90.projections`.
Names are known without torch: each class is imported when it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from inspect import isabstract
from typing import TYPE_CHECKING, TypeVar

from d90.errors import InputError
from d90.registry import Registry, late_names

if TYPE_CHECKING:
    from d90.projections.base import Projection
    from d90.projections.dense import Dense
    from d90.projections.fastfood import Fastfood
    from d90.projections.kronecker import Kronecker
    from d90.projections.onehot import OneHot
    from d90.projections.sparse import Sparse

__all__ = [
    "PROJECTIONS",
    "Dense",
    "Fastfood",
    "Kronecker",
    "OneHot",
    "Projection",
    "Sparse",
    "build",
    "check_name",
    "register_projection",
    "resolve",
]

_Kind = TypeVar("_Kind", bound="type[Projection]")


def _check(kind: type[Projection]) -> None:
    from d90.projections.base import Projection

    if not (isinstance(kind, type) and issubclass(kind, Projection)) or isabstract(kind):
        raise InputError(
            f"got {kind!r}, expected a subclass of d90.projections.Projection with rows, fold and draws written"
        )
    texts = (getattr(kind, "name", None), *kind.entry_kinds)
    if not all(isinstance(text, str) and text.isidentifier() for text in texts):
        raise InputError(
            f"{kind.__name__}: got name={texts[0]!r}, entry_kinds={kind.entry_kinds}; expected identifiers"
        )


PROJECTIONS: Registry[type[Projection]] = Registry(
    "projection",
    "d90.projections",
    {
        "dense": "d90.projections.dense:Dense",
        "sparse": "d90.projections.sparse:Sparse",
        "fastfood": "d90.projections.fastfood:Fastfood",
        "onehot": "d90.projections.onehot:OneHot",
        "kronecker": "d90.projections.kronecker:Kronecker",
    },
    check=_check,
)


def register_projection(kind: _Kind) -> _Kind:
    """Let a projection of your own be named wherever one is; a decorator of a `Projection`.

    Its name, `version`, entries and draws are hashed into the checksum that every tune holds.

    Example:
        >>> from d90.projections.dense import Dense
        >>> @d90.register_projection
        ... class Again(Dense):
        ...     name = "again"
        >>> d90.Subspace(network, d=20, projection="again").options.projection
        'again:gaussian'

    Args:
        kind: a class derived from `Projection`; its name, `version`, entries and draws are hashed into the checksum that every tune holds.

    Raises:
        InputError: not a concrete `Projection`, a name that cannot stand in a file, or one that is taken.
    """
    PROJECTIONS.register(getattr(kind, "name", ""), kind)
    return kind


_MODULES = {
    "Projection": "base",
    "Dense": "dense",
    "Fastfood": "fastfood",
    "Kronecker": "kronecker",
    "OneHot": "onehot",
    "Sparse": "sparse",
}


__getattr__ = late_names("d90.projections", _MODULES)


def check_name(spec: str) -> None:
    """Whether a name, or `name:entries`, stands for a projection; a name alone of d90's own needs no import.

    Raises:
        InputError: as `resolve`.
    """
    if isinstance(spec, str) and ":" not in spec:
        PROJECTIONS.check_name(spec)
    else:
        resolve(spec)


def resolve(spec: str) -> tuple[type[Projection], str | None]:
    """The projection that a name, or `name:entries`, stands for, and its entries.

    Raises:
        InputError: an unknown name, or entries that the projection does not have.
    """
    if not isinstance(spec, str):
        raise InputError(f"got projection={spec!r}, expected its name, as in 'fastfood:gaussian'")
    name, _, entries = spec.partition(":")
    kind = PROJECTIONS.find(name)
    if entries and entries not in kind.entry_kinds:
        kinds = " or ".join(map(repr, kind.entry_kinds))
        raise InputError(f"{name} projection: got entries='{entries}', expected {kinds}")
    return kind, entries or None


def build(spec: str, d: int, sizes: int | Sequence[int | Sequence[int]], seed: int = 0) -> Projection:
    """Make a projection from its name, or `name:entries` as in "fastfood:gaussian".

    Args:
        sizes: of each segment the number of rows, or a tensor's shape; an int means one segment.

    Raises:
        InputError: an unknown name, entries the projection does not have, or d outside 1 ... D.
    """
    kind, entries = resolve(spec)
    if isinstance(sizes, int) or kind.by_shape:
        return kind(d, sizes, seed, entries)  # type: ignore[arg-type]
    return kind(d, [one if isinstance(one, int) else math.prod(one) for one in sizes], seed, entries)
