"""What adapters and prefixes add to the time of a forward pass."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from d90.display import Display
from d90.files import Json, write_text
from d90.results.result import Result

__all__ = ["Latency", "LatencyRow"]


@dataclass(frozen=True)
class LatencyRow(Result):
    """One method at one size of input; the bare model's row is called "base".

    Attributes:
        method: its canonical text; `asked` as it was given; `merged`, whether its model was merged.
        batch, length: examples and tokens.
        milliseconds: median of a forward pass.
        added: median of what it adds to the bare model's pass of the same round, as a share.
        low, high: the 95 % interval of that median, wider by `noise` on both sides.
        rounds: how many.
        noise: what a model that adds nothing seemed to add at this size, at most.
    """

    method: str
    asked: str
    merged: bool
    batch: int
    length: int
    milliseconds: float
    added: float
    low: float
    high: float
    rounds: int
    noise: float = 0.0


@dataclass(frozen=True)
class Latency(Result, Display):
    """The rows, size after size, and what they were measured on.

    Example:
        >>> found = d90.latency(text_model, ["bitfit"], pairs=[(1, 8)], rounds=2, seconds=0)
        >>> [row.method for row in found.rows]
        ['base', 'bitfit']

    Attributes:
        model, weights: its name, and how many weights it has.
        dtype: of weights and passes.
        rows: one for each method and size; times in milliseconds, what is added as a share.
        definitions: the machine and versions.
        command: the command line that asked.
        question: the hash of what was asked, "" by earlier versions.
    """

    model: str
    weights: int
    dtype: str
    rows: tuple[LatencyRow, ...]
    definitions: Json
    command: str = ""
    question: str = ""

    @property
    def machine(self) -> str:
        """What it was measured on, in words."""
        return f"{self.definitions['processor']}, {self.definitions['threads']} threads, {self.dtype}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")
