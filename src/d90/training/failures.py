"""Trials that failed: those that diverged, and those that memory did not suffice for. Neither says anything of what it tried."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence

import torch

from d90.errors import RunFailed, TrainingFailed
from d90.training.result import TrialResult

__all__ = ["all_failed", "failed_result", "free_memory", "out_of_memory"]

# what torch says in a plain RuntimeError: the processor's allocator, accelerators, their libraries
_WORDS = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was exhausted, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def free_memory() -> None:
    """Give back what a trial that failed has left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def failed_result(why: str, seconds: float) -> TrialResult:
    """What a trial gave that memory did not suffice for; it is never stored: with more memory it would run."""
    return TrialResult(-math.inf, "failed", zero_score=-math.inf, seconds=seconds, error=why)


def all_failed(what: str, results: Sequence[TrialResult], option: str = "--lr", auto: bool = True) -> RunFailed:
    """The error for trials that all failed.

    Args:
        what: was trained, as in "every trial of bitfit" or "the baseline, full,".
        results: of those trials.
        option: sets their learning rate; `auto`: whether it can be found.
    """
    lacking = [result.error for result in results if not result.lasting]
    if len(lacking) == len(results):
        return TrainingFailed(
            f"{what} failed: memory was exhausted ({lacking[-1]}). A smaller --batch-size or --max-length needs less; fewer trials at once "
            "(--jobs) leave more for each"
        )
    rates = sorted({result.lr for result in results if math.isfinite(result.lr)})
    step = min(result.steps for result in results if result.status == "diverged")
    shown = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
    return TrainingFailed(
        f"{what} diverged: the loss was not finite, from step {step} on, at learning rate {shown}. That says nothing of how many "
        f"numbers are needed; try a lower rate, as in {option} {rates[0] / 10:.2g}"
        + (f", or {option} auto" if auto else "")
    )
