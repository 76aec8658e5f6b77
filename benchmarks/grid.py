"""A grid of rates that goes on while its best lies at an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["climb"]


def climb(score: Callable[[float], float], first: Sequence[float], step: float, widest: float) -> dict[float, float]:
    """Scores of the first values, and on by `step` beyond the end where the best is, up to `widest` and down to its inverse."""
    scores = {value: score(value) for value in first}
    while (best := max(scores, key=lambda value: scores[value])) in (min(scores), max(scores)):
        further = best / step if best == min(scores) else best * step
        if not 1 / widest <= further <= widest:
            break
        scores[further] = score(further)
    return scores
