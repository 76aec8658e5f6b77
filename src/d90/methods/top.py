"""FT-TopN: the last n blocks, what follows them, and the head move (FT-Top2 in Hu et al. 2021, table 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d90.errors import InputError
from d90.methods.base import Applied, Context, Method

__all__ = ["TopLayers"]


@dataclass(frozen=True)
class TopLayers(Method):
    """Delta is zero below the last `n` members of the model's longest ModuleList."""

    name: ClassVar[str] = "top"
    summary: ClassVar[str] = "the last n blocks and the head move"

    n: int = 2

    def move(self, applied: Applied, context: Context) -> set[str]:
        from d90.subspace.layout import layer_of

        names = list(applied.flags)
        layers, definition = layer_of(applied.model, names, "block")
        blocks = [layer for layer in dict.fromkeys(layers) if not layer.startswith("(")]
        n = self.n
        if not definition.startswith("block"):
            raise InputError("top looked for a ModuleList of blocks and this model has none; choose another method")
        if not 1 <= n <= len(blocks):
            raise InputError(f"top: got n={n}, expected 1 ... {len(blocks)}, the blocks this model has ({definition})")
        moved = {*blocks[-n:], "(after)"}
        chosen = {name for name, layer in zip(names, layers, strict=True) if layer in moved}
        applied.claim(self, (applied.flags[name][0] for name in chosen - applied.head))
        return chosen
