"""When a trial's training failed, told by the others: a larger subspace cannot be so much worse than a smaller one.

    failed if   best score of any smaller d - score > max(half of what there is to gain, 8 sigma)

The mean score rises with d. Where one falls so far, the optimizer did not find what is there: most often its rate is too high for
this d. The search takes it for what it scored, so the answer lies too high, or none is found: the user must be told.
"""

from __future__ import annotations

from collections.abc import Sequence

from d90.search.posterior import Trial

__all__ = ["failed"]

SHARE = 0.5  # of what there is to gain
SIGMAS = 8.0


def failed(trial: Trial, trials: Sequence[Trial], scale: float, noise: float) -> Trial | None:
    """The best trial of a smaller d, where `trial` is so far below it that its training failed; else None."""
    smaller = [t for t in trials if t.d is not None and trial.d is not None and t.d < trial.d]
    best = max(smaller, key=lambda t: t.low, default=None)
    return best if best is not None and best.low - trial.low > max(SHARE * scale, SIGMAS * noise) else None
