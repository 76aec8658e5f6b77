"""What a tune changed, matrix by matrix, and how alike two tunes are."""

from __future__ import annotations

from dataclasses import dataclass

from d90.analysis.amplification import Amplification, Spectrum
from d90.display import Display
from d90.results.result import Result

__all__ = ["Analysis", "Likeness", "WeightChangeRow"]


@dataclass(frozen=True)
class WeightChangeRow(Result):
    """A matrix in the table: its change's spectrum, and the comparison with W at each rank asked for."""

    name: str
    role: str
    spectrum: Spectrum
    against: tuple[Amplification, ...]


@dataclass(frozen=True)
class Likeness(Result):
    """One matrix in two tunes.

    Attributes:
        name, role: of the matrix.
        side: "A" (inputs) or "B" (outputs) of LoRA's factors; "inputs" or "outputs" of Delta W's own directions.
        phi: phi(i, j), i of the first tune's directions, j of the second's.
        null: E phi of random subspaces.
        distances: (p, projection distance, geodesic distance) of the spans of the first p directions of each, p = 1, 2, 4 ... and
            the smaller of the two numbers.
    """

    name: str
    role: str
    side: str
    phi: tuple[tuple[float, ...], ...]
    null: tuple[tuple[float, ...], ...]
    distances: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Analysis(Result, Display):
    """Of one tune, or of two.

    Example:
        >>> analysis = d90.analyze(tune, ranks=[1])
        >>> d90.Analysis.from_dict(analysis.to_dict()) == analysis
        True

    Attributes:
        tune, other: names of their files; `other` is "" where one alone was analysed.
        method, other_method: their methods' canonical texts.
        rows, other_rows: a row for each matrix that a tune changes.
        likeness: how alike the two are, for each matrix and side that both change.
        command: the command line that asked.
    """

    tune: str
    other: str
    method: str
    rows: tuple[WeightChangeRow, ...]
    likeness: tuple[Likeness, ...]
    other_method: str = ""
    other_rows: tuple[WeightChangeRow, ...] = ()
    command: str = ""
