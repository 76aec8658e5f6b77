"""d90 from evaluate(d, seed) -> score: bracket, then bisect. Pure: it knows no model, no file and no clock.

d90 = min {d : score(d) >= threshold}, on the assumption that the score grows with d; an upper bound on the true one (Li
et al. 2018, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from d90.errors import InputError

__all__ = ["Found", "Probe", "round_d", "search"]


@dataclass(frozen=True)
class Probe:
    """The scores of one d, a seed each, and whether most of them reached the threshold."""

    d: int
    scores: tuple[float, ...]
    passed: bool


@dataclass(frozen=True)
class Found:
    """The result of a search.

    `status`: "found"; "floor": even the lowest d passes, so d90 is at most that; "unreachable": the highest d tried
    fails. `d90` is the smallest d that passed inside the bracket; `interval` is (largest d that failed below it, d90],
    None where open.
    """

    status: str
    d90: int | None
    interval: tuple[int | None, int | None]
    probes: tuple[Probe, ...]


def round_d(d: float) -> int:
    """d to two significant digits (three below 100 are exact anyway), so that searches meet on the same grid."""
    if d < 10:
        return max(1, round(d))
    unit = 10 ** (int(math.log10(d)) - 1)
    return round(d / unit) * unit


def search(
    evaluate: Callable[[int, int], float],
    threshold: float,
    *,
    low: int,
    high: int,
    start: int = 256,
    first: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    resolution: float = 1.1,
    factor: float = 4.0,
    told: Callable[[str], None] = lambda message: None,
) -> Found:
    """Find the smallest d whose score reaches the threshold.

    Args:
        evaluate: (d, seed) -> score, larger is better; a lower bound at or above the threshold will do.
        threshold: what a score must reach.
        low, high: the range of d, both ends included.
        start: where the bracket begins.
        first: values of d to try before anything else, for a curve.
        seeds: a d passes when more than half of them do.
        resolution: the search ends when the bracket's ends are within this ratio, or next to each other on the grid.
        factor: how fast the bracket widens.
        told: is told what comes next.

    Raises:
        InputError: an empty range.
    """
    if not 1 <= low <= high:
        raise InputError(
            f"got a range of d from {low} to {high}, expected 1 <= low <= high; the model may be too small for it"
        )
    probes: dict[int, Probe] = {}

    def passes(d: int) -> bool:
        if d not in probes:
            scores: list[float] = []
            for seed in seeds:
                scores.append(evaluate(d, seed))
                won = sum(score >= threshold for score in scores)
                if 2 * won > len(seeds) or 2 * (len(scores) - won) >= len(seeds):
                    break  # decided
            probes[d] = Probe(d, tuple(scores), 2 * won > len(seeds))
        return probes[d].passed

    def grid(d: float) -> int:
        return min(max(round_d(d), low), high)

    for d in first:
        if not low <= d <= high:
            raise InputError(f"got d={d} to try, outside the range {low} ... {high}")
        told(f"d = {d}, asked for")
        passes(d)

    tried = sorted(probes)
    good = next((d for d in tried if probes[d].passed), None)
    bad = max((d for d in tried if not probes[d].passed and (good is None or d < good)), default=None)
    fresh = not probes
    while good is None:
        d = grid(start) if fresh else grid(factor * (bad or low))
        fresh = False
        told(f"bracket upwards: d = {d}")
        if passes(d):
            good = d
        elif d == high:
            return Found("unreachable", None, (d, None), tuple(probes[k] for k in sorted(probes)))
        else:
            bad = d
    while bad is None:
        if good == low:
            return Found("floor", good, (None, good), tuple(probes[k] for k in sorted(probes)))
        d = grid(good / factor)
        told(f"bracket downwards: d = {d}")
        if passes(d):
            good = d
        else:
            bad = d
    while good > bad * resolution:
        d = grid(math.sqrt(good * bad))
        if not bad < d < good:
            break
        told(f"bisect ({bad}, {good}]: d = {d}")
        if passes(d):
            good = d
        else:
            bad = d
    return Found("found", good, (bad, good), tuple(probes[k] for k in sorted(probes)))
