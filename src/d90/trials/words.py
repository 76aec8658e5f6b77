"""What became of a trial, in a line."""

from __future__ import annotations

from typing import Any

from d90.tasks.metrics import rises, to_display

__all__ = ["outcome_in_words"]


def outcome_in_words(outcome: dict[str, Any], metric: str) -> str:
    """An outcome as it is stored: its score, how it ended, what it took, and what it forgot where that was measured."""
    if outcome["status"] == "failed":
        return f"failed after {outcome['seconds']:.0f} s: memory was exhausted ({outcome['error']}); not stored"
    score = f"{to_display(outcome['score'], metric):.4f}"
    took = f" in {outcome['seconds']:.0f} s"
    if outcome["status"] == "diverged":
        return f"diverged at step {outcome['steps']} (loss not finite), best before {score}{took}"
    sign = {"passed": f"at {'least' if rises(metric) else 'most'} ", "hopeless": "given up at "}.get(
        outcome["status"], ""
    )
    lost = "".join(f", forgets {one['mean']:.3f} nats of {one['on']}" for one in outcome.get("forgetting", ()))
    return f"{sign}{score}{took}{lost}"
