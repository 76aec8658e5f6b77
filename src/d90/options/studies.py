"""What comparisons and studies over several models ask, beside how their trials are trained."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args

from d90.errors import InputError
from d90.options.base import Limit, Options, Precision, at_least, option

__all__ = [
    "GRID",
    "TARGETS",
    "AdviseFields",
    "AdviseOptions",
    "CompareFields",
    "CompareOptions",
    "Dtype",
    "LatencyFields",
    "LatencyOptions",
    "LowDataFields",
    "LowDataOptions",
    "PreflightFields",
    "PreflightOptions",
    "SeriesFields",
    "SeriesOptions",
    "StudyFields",
    "StudyOptions",
    "Target",
]

GRID = (0.333, 1.0, 3.0)
Dtype = Literal["fp32", "bf16"]
Target = Literal["last", "own", "both"]
TARGETS: tuple[str, ...] = get_args(Target)


@dataclass(frozen=True, kw_only=True, repr=False)
class CompareOptions(Options):
    """How methods are compared.

    Example:
        >>> d90.CompareOptions(seeds=3, costs=False)
        CompareOptions(seeds=3, costs=False)

    Attributes:
        seeds: trials of each method at its best rate, from the recipe's seed on.
        rates: factors of each method's default rate, where no `lr` is given.
        costs: measure step time, memory and latency as well (`d90.studies.cost`).

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    seeds: int = option(1, "Trials of each method at its best learning rate.", limit=at_least(1))
    rates: Sequence[float] = option(GRID, "Factors of each method's default rate to try.", joined="rates")
    costs: bool = option(True, "Measure time, memory and latency as well.")


@dataclass(frozen=True, kw_only=True, repr=False)
class LowDataOptions(Options):
    """How methods are compared on few examples.

    Example:
        >>> d90.LowDataOptions(least_steps=100)
        LowDataOptions(least_steps=100)

    Attributes:
        least_steps: a run takes so many optimizer steps at least.
        seeds: trials of each method at its best rate, from the recipe's seed on.
        rates: factors of each method's default rate, where no `lr` is given.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    least_steps: int = option(200, "A run takes so many optimizer steps at least.", limit=at_least(1))
    seeds: int = option(1, "Trials of each method at its best learning rate.", limit=at_least(1))
    rates: Sequence[float] = option(GRID, "Factors of each method's default rate to try.", joined="rates")


@dataclass(frozen=True, kw_only=True, repr=False)
class SeriesOptions(Options):
    """Which target the models of a trajectory or a family are held to.

    Example:
        >>> d90.SeriesOptions(target="both")
        SeriesOptions(target='both')

    Attributes:
        target: "last": that of the last model that can be trained, for all; "own": each model's; or "both".

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    target: Target = option("last", "last: one target for all models; own: each model's; both.")


@dataclass(frozen=True, kw_only=True, repr=False)
class AdviseOptions(Options):
    """What is asked for when the smallest method that is enough is looked for.

    Example:
        >>> d90.AdviseOptions(within="2%", budget="30m").spend
        (30.0, 'minutes')

    Attributes:
        like: the reference, a method in the grammar.
        within: how much worse is good enough: a number in the metric's unit (points of a share, nats of a loss), or a share of the
            gain from the untrained model to the reference, as "2%".
        min_score: a score to reach, instead of a reference's: of a loss, the loss.
        max_bytes: of the tune's file.
        budget: a share of the whole grid (up to 1), whole fine-tunings (above 1), or minutes, as "30m".
        seeds: runs of a candidate at most, where one does not decide.
        reading: the share of the schedule after which learning rates are compared.
        out: where the tune that was chosen is written; its adapter goes into a folder beside it.

    Raises:
        InputError: a margin beside a score to reach, or a value that cannot be read.
    """

    like: str = option("lora:r=16,targets=all", "The reference: full, or any method.")
    within: float | str | None = option(
        None,
        "How much worse is good enough: points, nats, or a share of the gain over the untrained model as 2%, the default.",
    )
    min_score: float | None = option(None, "Reach this score instead of the reference's; of a loss, this loss.")
    max_bytes: int | None = option(None, "The tune's file may take no more bytes.", limit=at_least(1))
    budget: float | str = option(
        0.25, "A share of the whole grid (up to 1), whole fine-tunings (above 1), or minutes as 30m."
    )
    seeds: int = option(3, "Runs of a candidate at most, where one does not decide.", limit=at_least(1))
    reading: float = option(
        1 / 8,
        "Share of the schedule after which learning rates are compared.",
        limit=Limit("a share of the steps, 0 < reading < 1", 0, 1, open_low=True, open_high=True),
    )
    out: str | os.PathLike[str] = option(
        Path("runs/advised.d90"), "The tune that was chosen, and its adapter beside it."
    )

    def check(self) -> None:
        """Refuse what cannot be."""
        super().check()
        _ = self.margin, self.spend
        if self.min_score is not None and self.within is not None:
            raise InputError("got --within and --min-score, expected one of them: a margin, or a score to reach")

    @property
    def margin(self) -> tuple[float | None, float]:
        """(points or nats, None for a share; the share of the gain)."""
        if self.within is None:
            return None, 0.02
        text = str(self.within).strip()
        value = _number(text.removesuffix("%"))
        if not (value > 0 and math.isfinite(value)) or (text.endswith("%") and value >= 100):
            raise InputError(
                f"got within={self.within}, expected a positive number such as 1 or 0.01, or a share such as 2%"
            )
        return (None, value / 100) if text.endswith("%") else (value, 0.02)

    @property
    def spend(self) -> tuple[float, str]:
        """(amount, "grid", "runs" or "minutes")."""
        text = str(self.budget).strip()
        value = _number(re.sub(r"\s*(m|min|minutes)$", "", text))
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"got budget={self.budget}, expected a share of the grid such as 0.25, fine-tunings such as 12, or minutes such as 30m"
            )
        unit = "minutes" if text.endswith(("m", "min", "minutes")) else "grid" if value <= 1 else "runs"
        return value, unit


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class AdviseFields(TypedDict, total=False):
    """The fields of `AdviseOptions`, as keywords of a function."""

    like: str
    within: float | str | None
    min_score: float | None
    max_bytes: int | None
    budget: float | str
    seeds: int
    reading: float
    out: str | os.PathLike[str]


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


@dataclass(frozen=True, kw_only=True, repr=False)
class LatencyOptions(Options):
    """What is timed, and how often.

    Example:
        >>> d90.LatencyOptions(pairs=[(1, 128)], dtype="bf16")
        LatencyOptions(pairs=((1, 128),), dtype='bf16')

    Attributes:
        shape: an architecture with weights drawn at random, in the model's place ("gpt2-medium", "bert-base", ...); needs no network.
        pairs: (batch, tokens).
        rounds: of each pair at least; more while `seconds` have not gone by.
        seconds: how long rounds go on at each pair.
        dtype: of weights and passes, "fp32" or "bf16".
        threads: of torch; as they are by default.
        seed: of weights, tokens and orders.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    shape: str | None = option(None, "gpt2-medium, bert-base, ...: random weights, no network.")
    pairs: Sequence[tuple[int, int]] = option(
        ((32, 512), (16, 256), (1, 128), (1, 64)), "BATCHxTOKENS, joined by commas.", joined="pairs"
    )  # the first three are the paper's
    rounds: int = option(7, "Passes of each method at each size, at least.", limit=at_least(2))
    seconds: float = option(
        20.0, "Go on with rounds at each size for so long.", limit=Limit("seconds of 0 or more", 0, open_high=True)
    )
    dtype: Dtype = option("fp32", "fp32 or bf16.")
    threads: int | None = option(None, "Threads of torch.", limit=at_least(1))
    seed: int = option(0, "Seed of weights, tokens and orders.", limit=at_least(0))


class LatencyFields(TypedDict, total=False):
    """The fields of `LatencyOptions`, as keywords of a function."""

    shape: str | None
    pairs: Sequence[tuple[int, int]]
    rounds: int
    seconds: float
    dtype: Dtype
    threads: int | None
    seed: int


@dataclass(frozen=True, kw_only=True, repr=False)
class PreflightOptions(Options):
    """The run whose memory is asked for.

    Example:
        >>> d90.PreflightOptions(batch="8x512", gradient_checkpointing=True).size
        (8, 512)

    Attributes:
        batch: "EXAMPLESxTOKENS", or "EXAMPLES" of 128 tokens; of images the examples count alone.
        kind: "classification" or "language"; None: language where the checkpoint predicts tokens.
        outputs: classes of the head; an image network has its own.
        precision, weights, gradient_checkpointing: as in training.
        device: "cpu" or "cuda".

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    batch: str = option("32x128", "EXAMPLESxTOKENS of a batch, or EXAMPLES alone for 128 tokens.")
    kind: Literal["classification", "language"] | None = option(
        None, "classification or language; language where the checkpoint predicts tokens."
    )
    outputs: int = option(2, "Classes of the head.", limit=at_least(1))
    precision: Precision = option("auto", "auto, fp32 or bf16.")
    weights: Dtype = option("fp32", "What the weights are held in: fp32 or bf16.")
    gradient_checkpointing: bool = option(False, "Blocks compute their activations again in the backward pass.")
    device: Literal["cpu", "cuda"] = option("cpu", "Where it is trained: cpu or cuda.")

    def check(self) -> None:
        """Refuse what cannot be."""
        super().check()
        _ = self.size

    @property
    def size(self) -> tuple[int, int]:
        """(examples, tokens of each)."""
        found = re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", self.batch)
        if found is None:
            raise InputError(
                f"got batch='{self.batch}', expected EXAMPLESxTOKENS such as 32x128, or examples alone such as 32"
            )
        return int(found[1]), int(found[2] or 128)


class PreflightFields(TypedDict, total=False):
    """The fields of `PreflightOptions`, as keywords of a function."""

    batch: str
    kind: Literal["classification", "language"] | None
    outputs: int
    precision: Precision
    weights: Dtype
    gradient_checkpointing: bool
    device: Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyOptions(Options):
    """What a study of an objective of one's own asks (`d90.Study`).

    Example:
        >>> d90.StudyOptions(direction="minimize", budget=12)
        StudyOptions(direction='minimize', budget=12)

    Attributes:
        rule: "gain", 90 % of the way from chance to the baseline; or "paper", 90 % of the baseline.
        fraction: 0.9 for d90.
        chance: the score of what has learned nothing.
        full: the baseline's score, where it is a known number; None: it is asked for.
        direction: "maximize" where larger scores are better, or "minimize".
        low, high, start: the range of d, and the first to try.
        budget: enough when this many baselines were spent; a trial costs 1 unless `tell` says otherwise.
        resolution: enough when the interval's ends are within this ratio.
        noise: the standard deviation of a score over seeds that is expected; 3 % of the gain by default.
        seed: the first seed.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    rule: Literal["gain", "paper"] = option("gain", "gain: of the way from chance; paper: of the baseline.")
    fraction: float = option(
        0.9,
        "The share to reach, 0.9 for d90.",
        limit=Limit("a share of the baseline, 0 < fraction <= 1", 0, 1, open_low=True),
    )
    chance: float = option(0.0, "The score of what has learned nothing.")
    full: float | None = option(None, "The baseline's score, where it is a known number.")
    direction: Literal["maximize", "minimize"] = option("maximize", "Whether larger scores are better.")
    low: int = option(1, "Smallest d to try.", limit=at_least(1))
    high: int | None = option(None, "Largest d to try.", limit=at_least(1))
    start: int | None = option(None, "The first d to try.", limit=at_least(1))
    budget: float = option(9.0, "Enough when this many baselines were spent.", limit=at_least(1))
    resolution: float = option(1.25, "Enough when the interval's ends are within this ratio.", limit=at_least(1))
    noise: float | None = option(None, "The standard deviation of a score over seeds that is expected.")
    seed: int = option(0, "The first seed.", limit=at_least(0))

    def check(self) -> None:
        """Refuse what cannot be."""
        super().check()
        if self.direction == "minimize" and self.rule == "paper":
            raise InputError(
                "got the paper rule for an objective to minimize, expected 'gain': a share of a loss means nothing"
            )


class StudyFields(TypedDict, total=False):
    """The fields of `StudyOptions`, as keywords of a function."""

    rule: Literal["gain", "paper"]
    fraction: float
    chance: float
    full: float | None
    direction: Literal["maximize", "minimize"]
    low: int
    high: int | None
    start: int | None
    budget: float
    resolution: float
    noise: float | None
    seed: int
