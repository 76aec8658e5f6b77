"""Pure functions of numbers and tensors: what a tune changes, what can be guaranteed of it, its real length in bits."""

from __future__ import annotations

from d90.analysis import bounds, coding
from d90.analysis.amplification import amplification, spectrum
from d90.analysis.betting import betting_upper
from d90.analysis.bounds import relative_gap
from d90.analysis.similarity import geodesic_distance, projection_distance, random_similarity, subspace_similarity

__all__ = [
    "amplification",
    "betting_upper",
    "bounds",
    "coding",
    "geodesic_distance",
    "projection_distance",
    "random_similarity",
    "relative_gap",
    "spectrum",
    "subspace_similarity",
]
