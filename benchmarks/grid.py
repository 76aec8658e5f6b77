"""A grid of rates, as factors of the default, that goes on while its best lies at an end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

__all__ = ["best_of", "climb"]


def best_of(scores: Mapping[float, float]) -> float:
    """The factor that scores best; of equals the one nearest to the default."""
    return max(scores, key=lambda factor: (scores[factor], -abs(math.log(factor))))


def climb(score: Callable[[float], float], first: Sequence[float], step: float, widest: float) -> dict[float, float]:
    """Scores of the first values, and on by `step` beyond the end where the best is, up to `widest` and down to its inverse."""
    scores = {value: score(value) for value in first}
    while (best := best_of(scores)) in (min(scores), max(scores)):
        further = best / step if best == min(scores) else best * step
        if not 1 / widest <= further <= widest:
            break
        scores[further] = score(further)
    return scores
