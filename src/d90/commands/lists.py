"""`d90 tasks | methods`: what names there are."""

from __future__ import annotations

from typing import Any

from d90.commands.options import (
    two_columns,
)


def tasks() -> None:
    """List the forms a task's name takes, and the models'."""
    from d90.models import MODELS
    from d90.tasks import TASKS

    two_columns("tasks", TASKS)
    two_columns("models", MODELS)


def methods() -> None:
    """List the methods, projections and subspace options."""
    from d90.layout import HEADS, LAYERS, SCALES
    from d90.methods import METHODS
    from d90.projections import PROJECTIONS
    from d90.subspace import STRUCTURES

    def usage(kind: Any) -> str:
        keys = ",".join(f"{key}={default}" for key, (_, default) in kind.options.items())
        return f"{kind.name}:{keys}" if keys else kind.name

    two_columns("methods", {usage(kind): kind.summary for kind in METHODS.values()})
    projections = ", ".join(f"{kind.name}[:{'|'.join(kind.entry_kinds)}]" for kind in PROJECTIONS.values())
    two_columns(
        "behind @, as in full@d=1000,structure=said",
        {
            "d": "how many numbers are trained, lambdas included",
            "structure": " | ".join(STRUCTURES),
            "projection": projections,
            "scale": " | ".join(SCALES),
            "layer": " | ".join(LAYERS),
            "head": " | ".join(HEADS),
            "seed": "of P; the run's seed by default",
        },
    )
