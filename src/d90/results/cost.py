"""What a method costs on a machine: time and memory of a step, latency of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from d90.results.result import Result

__all__ = ["Cost"]


@dataclass(frozen=True)
class Cost(Result):
    """Medians over rounds.

    Attributes:
        step: seconds of a training step (forward, backward, Adam).
        step_ratio: that over full fine-tuning's, whose own is 1.
        memory: peak bytes of tensors above the model during a step.
        latency: seconds of a forward pass, merged where the method merges.
        latency_ratio: that over the base model's.
    """

    step: float
    step_ratio: float
    memory: int
    latency: float
    latency_ratio: float
