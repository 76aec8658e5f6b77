"""BitFit: the biases and the head move (Ben Zaken, Ravfogel, Goldberg 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d90.errors import InputError
from d90.methods.base import Applied, Context, Method

__all__ = ["BitFit"]


@dataclass(frozen=True)
class BitFit(Method):
    """Delta is zero outside the parameters called bias and the head's own."""

    name: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "the biases and the head move"

    def move(self, applied: Applied, context: Context) -> set[str]:
        biases = {name for name in applied.flags if name.rpartition(".")[2] == "bias"}
        if not biases:
            raise InputError(
                "bitfit looked for parameters called 'bias' and this model has none (many decoders have no biases); "
                f"it has {', '.join(sorted({name.rpartition('.')[2] for name in applied.flags}))}. Choose another method."
            )
        applied.claim(self, (applied.flags[name][0] for name in biases - applied.head))
        return biases | applied.head
