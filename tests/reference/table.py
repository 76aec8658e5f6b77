"""The one table every projection test runs over: what a projection is called, and the shapes it is tried at."""

from __future__ import annotations

from collections.abc import Sequence

from d90.projections import PROJECTIONS
from tests.reference import cyclic

Sizes = tuple[int | Sequence[int], ...]  # numbers of rows, or shapes

assert cyclic.Cyclic.name in PROJECTIONS  # registered ones are picked up as the built-in ones are
SPECS = [f"{name}:{entries}" for name, kind in PROJECTIONS.items() for entries in kind.entry_kinds]


def suited(spec: str, d: int) -> int:
    """The d next to this one that a projection can have."""
    return PROJECTIONS[spec.partition(":")[0]].nearest(d)


SHAPES: dict[str, tuple[int, Sizes]] = {  # (d, sizes)
    "d = 1": (1, (7, 2)),
    "d = D": (9, (4, 5)),
    "empty segments": (3, (0, 5, 0, 9, 0)),
    "whole blocks": (16, (64, 32)),
    "ragged, small segments": (20, (50, 7, 1, 300, 19)),
    "not a power of two": (100, (700,)),
    "blocks of 1024": (520, (1024, 2000)),
    "above 1024, ragged": (1030, (1024, 1100, 5, 40)),
    "shapes of tensors": (16, ((6, 5), (7,), (3, 2, 4), (1, 9), (8, 1), ())),
}

# dense at the two large shapes is 2e6 draws in plain Python, and shows nothing new
_SHOWN = [(spec, shape) for spec in SPECS for shape in SHAPES if not (spec[:5] == "dense" and SHAPES[shape][0] > 500)]
CASES = [(spec, suited(spec, SHAPES[shape][0]), SHAPES[shape][1]) for spec, shape in _SHOWN]
IDS = [f"{spec}-{shape}" for spec, shape in _SHOWN]
