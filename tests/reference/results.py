"""Results that no study gave: a test says what it is about, and the rest is filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d90.analysis.amplification import Amplification, Spectrum
from d90.results.compare import Comparison, Entry
from d90.results.low_data import LowData
from d90.results.series import Cell, Series
from d90.results.weight_change import Analysis, Likeness, WeightChangeRow


def made_entry(asked: str, *scores: float) -> Entry:
    """One method with its validation scores."""
    return Entry(asked, asked, 1.0, (), scores, (), 10, 10, 0, 10, 0, "", 1.0)


def made_comparison(
    metric: str = "accuracy", /, seeds: int = 1, chance: float = 0.5, **scores: Sequence[float]
) -> Comparison:
    """A comparison by its methods' scores; `lora_8` stands for lora:r=8."""
    entries = tuple(made_entry(name.replace("_", ":r="), *values) for name, values in scores.items())
    return Comparison("m", "data/t", metric, "validation", chance, seeds, entries, {}, {})


def made_low_data(counts: Sequence[int], *comparisons: Comparison, command: str = "") -> LowData:
    """Comparisons at these numbers of examples."""
    return LowData("m", "data/t", tuple(counts), comparisons, command)


def made_cell(x: int, d90: int | None, status: str = "found", **changes: Any) -> Cell:
    """An interval reaches from half of d90 to twice it."""
    ends = (d90 // 2, 2 * d90) if d90 else (None, None)
    given = {
        "model": f"run/step-{x}",
        "task": "data/t",
        "target": "last",
        "interval": ends,
        "threshold": 0.63,
        "chance": 0.5,
    }
    given |= {"score": 0.7 if d90 else None, **changes}
    return Cell(x=x, d90=d90, status=status, **given)


def made_series(*cells: Cell, kind: str = "trajectory", **changes: Any) -> Series:
    """A trajectory of these cells."""
    return Series(kind, "full@structure=did", "paper", "pretraining step", cells, {}, **changes)


def made_row(role: str, *factors: tuple[int, float], own: float = 1.0) -> WeightChangeRow:
    """A matrix by (r, ||Delta W||) with W's part in its directions."""
    against = tuple(Amplification(r, 5.0, factor * own, own, 4.0, 0.1) for r, factor in factors)
    return WeightChangeRow(f"{role}.weight", role, Spectrum((3.0, 1.0, 0.0), 1.1, 1.5, 1), against)


def made_likeness(
    role: str, phi: Sequence[Sequence[float]], null: Sequence[Sequence[float]], **changes: Any
) -> Likeness:
    """One matrix in two tunes."""
    tables = (tuple(map(tuple, phi)), tuple(map(tuple, null)))
    return Likeness(f"{role}.weight", role, "A", *tables, **{"distances": ((1, 0.9, 1.1),), **changes})


def made_analysis(
    rows: Sequence[WeightChangeRow] = (),
    others: Sequence[WeightChangeRow] = (),
    likeness: Sequence[Likeness] = (),
    **changes: Any,
) -> Analysis:
    """Of two LoRA tunes, unless `changes` say otherwise."""
    names = {"tune": "a.d90", "other": "b.d90", "method": "lora:r=4,targets=qv", "other_method": "lora:r=64,targets=qv"}
    return Analysis(rows=tuple(rows), other_rows=tuple(others), likeness=tuple(likeness), **{**names, **changes})
