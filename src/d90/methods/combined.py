"""Two or more methods together, as lora:r=4+preembed:prefix=8 (Hu et al. 2021, appendix E)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d90.errors import InputError
from d90.methods.base import Applied, Context, Method

__all__ = ["Combined"]


@dataclass(frozen=True, init=False)
class Combined(Method):
    """The parts' parameters train together and are saved together; no weight may belong to two parts."""

    name: ClassVar[str] = "combined"
    summary: ClassVar[str] = "several methods joined by '+'"

    parts: tuple[Method, ...]

    def __init__(self, *parts: Method) -> None:
        self._settle(
            parts=tuple(one for part in parts for one in (part.parts if isinstance(part, Combined) else [part]))
        )
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            raise InputError(f"got '{self}', expected different methods on the two sides of '+'")

    @property
    def merges(self) -> bool:  # type: ignore[override]
        return all(part.merges for part in self.parts)

    @property
    def starts_at_base(self) -> bool:  # type: ignore[override]
        return all(part.starts_at_base for part in self.parts)

    @property
    def looks_at_data(self) -> bool:  # type: ignore[override]
        return any(part.looks_at_data for part in self.parts)

    @property
    def adds(self) -> str:  # type: ignore[override]
        return "; ".join(part.adds for part in self.parts if part.adds != "nothing") or "nothing"

    def move(self, applied: Applied, context: Context) -> set[str]:
        # by identity: one part may rename what another chose
        chosen: set[int] = set()
        for part in self.parts:
            moved = part.move(applied, context)
            now = {name: (parameter, True) for name, parameter in applied.model.named_parameters()}
            chosen |= {id((now | applied.flags)[name][0]) for name in moved}
        applied.stored = applied.base = None  # the file holds what is trained, for every part alike
        return {name for name, p in applied.model.named_parameters() if id(p) in chosen}

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))
