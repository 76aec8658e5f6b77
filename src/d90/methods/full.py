"""Full fine-tuning: every weight moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d90.methods.base import Applied, Context, Method

__all__ = ["Full"]


@dataclass(frozen=True)
class Full(Method):
    """theta = theta_0 + Delta, Delta in R^D."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "every weight moves"

    def move(self, applied: Applied, context: Context) -> set[str]:
        applied.claim(self, (p for name, (p, _) in applied.flags.items() if name not in applied.head))
        return set(applied.flags)
