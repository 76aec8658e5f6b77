"""Trials that failed: those that diverged, and those that memory did not suffice for. Neither says anything of what it tried."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from d90.errors import RunFailed, TrainingFailed
from d90.search.problem import FAILED

__all__ = ["all_failed", "failed", "failed_outcome", "free_memory", "out_of_memory"]

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


def failed_outcome(why: str, seconds: float) -> dict[str, Any]:
    """The outcome of a trial that memory did not suffice for; it is never stored: with more memory it would run."""
    return {
        "score": -math.inf, "status": "failed", "zero_score": -math.inf, "curve": [], "steps": 0, "seconds": seconds, "test": None,
        "error": why,
    }  # fmt: skip


def failed(outcome: Mapping[str, Any]) -> bool:
    """Whether a trial failed, by its outcome."""
    return outcome["status"] in FAILED


def all_failed(what: str, outcomes: Sequence[Mapping[str, Any]], option: str = "--lr", auto: bool = True) -> RunFailed:
    """The error for trials that all failed.

    Args:
        what: was trained, as in "every trial of bitfit" or "the baseline, full,".
        outcomes: of those trials.
        option: sets their learning rate; `auto`: whether it can be found.
    """
    lacking = [str(outcome["error"]) for outcome in outcomes if outcome["status"] == "failed"]
    if len(lacking) == len(outcomes):
        return TrainingFailed(
            f"{what} failed: memory was exhausted ({lacking[-1]}). A smaller --batch-size or --max-length needs less; fewer trials at once "
            "(--jobs) leave more for each"
        )
    rates = sorted({float(outcome["lr"]) for outcome in outcomes if "lr" in outcome})
    step = min(outcome["steps"] for outcome in outcomes if outcome["status"] == "diverged")
    shown = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
    return TrainingFailed(
        f"{what} diverged: the loss was not finite, from step {step} on, at learning rate {shown}. That says nothing of how many "
        f"numbers are needed; try a lower rate, as in {option} {rates[0] / 10:.2g}"
        + (f", or {option} auto" if auto else "")
    )
