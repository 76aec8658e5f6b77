"""What comparisons and studies over several models ask, beside how their trials are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from d90.options.base import Options, at_least, option

__all__ = [
    "GRID",
    "TARGETS",
    "CompareFields",
    "CompareOptions",
    "LowDataFields",
    "LowDataOptions",
    "SeriesFields",
    "SeriesOptions",
    "Target",
]

GRID = (0.333, 1.0, 3.0)
Target = Literal["last", "own", "both"]
TARGETS: tuple[str, ...] = get_args(Target)


@dataclass(frozen=True, kw_only=True, repr=False)
class CompareOptions(Options):
    """How methods are compared.

    Attributes:
        seeds: trials of each method at its best rate, from the recipe's seed on.
        rates: factors of each method's default rate, where no `lr` is given.
        costs: measure step time, memory and latency as well (`d90.studies.cost`).
    """

    seeds: int = option(1, "Trials of each method at its best learning rate.", limit=at_least(1))
    rates: Sequence[float] = option(GRID, "Factors of each method's default rate to try.", joined="rates")
    costs: bool = option(True, "Measure time, memory and latency as well.")


@dataclass(frozen=True, kw_only=True, repr=False)
class LowDataOptions(Options):
    """How methods are compared on few examples.

    Attributes:
        least_steps: a run takes so many optimizer steps at least.
        seeds, rates: as for a comparison.
    """

    least_steps: int = option(200, "A run takes so many optimizer steps at least.", limit=at_least(1))
    seeds: int = option(1, "Trials of each method at its best learning rate.", limit=at_least(1))
    rates: Sequence[float] = option(GRID, "Factors of each method's default rate to try.", joined="rates")


@dataclass(frozen=True, kw_only=True, repr=False)
class SeriesOptions(Options):
    """Which target the models of a trajectory or a family are held to.

    Attributes:
        target: "last": that of the last model that can be trained, for all; "own": each model's; or "both".
    """

    target: Target = option("last", "last: one target for all models; own: each model's; both.")


class CompareFields(TypedDict, total=False):
    """The fields of `CompareOptions`, as keywords of a function."""

    seeds: int
    rates: Sequence[float]
    costs: bool


class LowDataFields(TypedDict, total=False):
    """The fields of `LowDataOptions`, as keywords of a function."""

    least_steps: int
    seeds: int
    rates: Sequence[float]


class SeriesFields(TypedDict, total=False):
    """The fields of `SeriesOptions`, as keywords of a function."""

    target: Target
