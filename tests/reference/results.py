"""Results that no study gave: a test says what it is about, and the rest is filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d90.analysis.amplification import Amplification, Spectrum
from d90.results.advise import Recommendation, Tried
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


def made_tried(method: str, stored: int, *scores: float, gap: float | None = 0.0, **changes: Any) -> Tried:
    """A candidate of an advice; its standard error is 0.006."""
    given = {"family": method.partition("=")[0], "size": float(stored), "lr": 0.0013, "error": 0.006}
    given |= {"shown": False, "worse": False, "bytes": 4 * stored + 400, "trained": stored, **changes}
    return Tried(method=method, scores=scores, gap=gap, stored=stored, **given)


def made_advice(status: str, tried: Sequence[Tried], reference: Tried | None, **changes: Any) -> Recommendation:
    """Its answer is the smallest shown, or the reference."""
    shown = [one for one in tried if one.shown]
    chosen = min(shown, key=lambda one: one.stored) if shown else reference
    given: dict[str, Any] = {
        "model": "minilm", "task": "data/reviews", "metric": "accuracy", "chosen": chosen, "guess": None, "margin": 0.01, "gain": 0.3,
        "zero": 0.5, "goal": None, "spent": 11.2, "grid": 84.0, "complete": False, "seconds": 400.0, "limit": (300.0, 2200.0), "looks": 3,
        "rates": (("lora", 0.31, 0.08, 4), ("full@d", 0.0, 0.1, 0)), "line": "d90 train minilm data/reviews -m lora:r=1 --lr 0.0013",
        "readings": (("lora:r=1,alpha=1.0,targets=qkvo/mlp", 0.0013, 0.6121), ("full@d=100", 0.9, None)),
        "snippets": {"peft": "LoraConfig(r=1, lora_alpha=1.0, target_modules=[" + ", ".join(f"'layer.{i}.query'" for i in range(9)) + "])"},
        "tune": "", "adapter": "", "unknown": ("whether longer training changes the answer",), "settle": "--budget 24", "corrected": "",
        "recipe": {"model": "minilm", "task": "data/reviews", "epochs": 3, "batch_size": 32},
        "definitions": {"task": "f" * 64}, "command": "d90 advise minilm data/reviews",
    }  # fmt: skip
    return Recommendation(status=status, tried=tuple(tried), reference=reference, **{**given, **changes})


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
