"""When a trial is given up: by its learning curve beside those of earlier trials that ran to their end.

    give up at evaluation k if   best so far + 1.5 max_j (final_j - best_j at k) + 2 sigma < threshold

over the earlier trials j: none of them rose by two thirds of what is missing. Not before half of the evaluations, and not by
fewer than two earlier trials. What is known of the score is then that it lies below the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

__all__ = ["Pruner", "will_fail"]

SLACK = 1.5
MIN_EARLIER = 2  # earlier trials


def will_fail(
    scores: Sequence[float], earlier: Sequence[Sequence[float]], total: int, threshold: float, noise: float
) -> bool:
    """Whether a trial will stay below the threshold, by its learning curve so far.

    Args:
        scores: of the evaluations so far.
        earlier: the scores of all `total` evaluations of each earlier trial that ran to its end.
        total: evaluations of a whole trial.
        threshold: what the best of the scores would have to reach.
        noise: the standard deviation of a score over seeds that is expected.
    """
    done = len(scores)
    if 2 * done < total or len(earlier) < MIN_EARLIER:
        return False
    rises = [best[-1] - best[done - 1] for best in (list(accumulate(curve, max)) for curve in earlier)]
    return max(scores) + SLACK * max(rises) + 2 * noise < threshold


@dataclass(frozen=True)
class Pruner:
    """`will_fail` as plain data, which can be sent: called with a run's evaluations, the first of them before any step."""

    earlier: Sequence[Sequence[float]]
    total: int
    threshold: float
    noise: float

    def __call__(self, curve: Sequence[Any]) -> bool:
        """Whether to give up."""
        scores = [look.score for look in curve][1:]
        return will_fail(scores, self.earlier, self.total, self.threshold, self.noise)
