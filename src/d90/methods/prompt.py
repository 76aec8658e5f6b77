"""What `preembed` and `prelayer` share: trained positions in front of a text and behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d90.errors import InputError
from d90.methods.base import Inserting

__all__ = ["Prompt"]


@dataclass(frozen=True)
class Prompt(Inserting):
    """A method that puts trained positions around every text: `prefix` in front, `infix` behind.

    Raises:
        InputError: a negative number, or no position at all.
    """

    merges: ClassVar[bool] = False
    starts_at_base: ClassVar[bool] = False
    adds: ClassVar[str] = "positions to every text"

    prefix: int = 8
    infix: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.prefix, self.infix) < 0 or self.prefix + self.infix == 0:
            raise InputError(
                f"{self.name}: got prefix={self.prefix} and infix={self.infix}, expected 0 or more each and at least one position"
            )
