"""What a measurement of d90 asks, and how far it searches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from d90.options.base import Limit, Options, at_least, option
from d90.options.rates import parse_rate

__all__ = ["RULES", "RuleName", "SearchFields", "SearchOptions"]

RuleName = Literal["paper", "gain", "margin"]
RULES: tuple[str, ...] = get_args(RuleName)


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchOptions(Options):
    """What a measurement asks, and how far it searches.

        d90.measure("minilm", "docstrings", search=d90.SearchOptions(rule="gain", budget=12))
        d90.measure("minilm", "docstrings", rule="gain", budget=12)      # the same

    Example:
        >>> d90.SearchOptions(rule="gain", dims=[100, 1000])
        SearchOptions(rule='gain', dims=(100, 1000))

    Attributes:
        rule, fraction, within: how the threshold is made (`d90.search.rules`); by default the paper's rule, the gain rule for a
            correlation or a loss, the margin rule where `within` is given, in points.
        dims: values of d to try besides, for a curve.
        low, high: the range of d; by default what the method allows.
        start: the first d.
        resolution, budget: the search ends when the interval's ends are within this ratio, or when this many full fine-tunes are
            spent, the baseline's and the search for rates included; by default 9 beside what the rates cost.
        parallel: how many trials the search asks for at once: with an executor they end sooner, and tell it a little less each.
        seeds: under the margin rule, how many trials of the baseline the others are paired with.
        full_curve: train every trial to its end instead of stopping it once it passes or is pruned.
        prune: give trials up whose learning curve says that they will fail.
        test: report scores on the test split, at d90 and of the baseline; where the task has none, one is made from training
            examples, which are then not trained on.
        baseline: the method whose score counts as full, or a number (Li et al.'s global baseline of 1.0; of a loss, the loss).
        baseline_lr, baseline_epochs: of the baseline; by default its rate is found as well where the trials' is, else its method's
            default, and it has the trials' epochs.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    rule: RuleName | None = option(
        None,
        "paper: 90 % of the score; gain: 90 % of the way from chance; margin: with --within. By default paper, and gain for a "
        "correlation or a loss.",
    )
    fraction: float = option(
        0.9,
        "The share of the baseline to reach, 0.9 for d90.",
        limit=Limit("a share of the baseline, 0 < fraction <= 1", 0, 1, open_low=True),
    )
    within: float | None = option(
        None, "Points below the baseline that are good enough, by a paired test on the examples."
    )
    dims: Sequence[int] = option((), "Values of d to try besides, joined by commas.", joined="dims")
    low: int | None = option(None, "Smallest d to try.", limit=at_least(1))
    high: int | None = option(None, "Largest d to try.", limit=at_least(1))
    start: int = option(4096, "The d the search starts at.", limit=at_least(1))
    resolution: float = option(1.25, "Enough when the interval's ends are within this ratio.", limit=at_least(1))
    budget: float | None = option(
        None,
        "Enough when this many full fine-tunings were spent; by default 9, and besides them what finding the rates costs.",
        limit=at_least(1),
    )
    parallel: int = option(1, "Trials the search asks for at once; with --jobs they run at once.", limit=at_least(1))
    seeds: int = option(2, "Trials of the baseline that others are paired with, under --within.", limit=at_least(1))
    full_curve: bool = option(False, "Stop no trial early.")
    prune: bool = option(True, "Give up trials whose learning curve says that they will fail.", old=("--hopeless",))
    test: bool = option(False, "Report test scores; a test split is made where there is none.")
    baseline: str | float = option(
        "full", "The method that counts as full, or a number: a score, of a loss the loss.", old=("--of",)
    )
    baseline_lr: float | str | None = option(
        None, "The baseline's learning rate, as --lr; found as well where --lr is auto, else its default."
    )
    baseline_epochs: float | None = option(
        None, "The baseline's epochs.", limit=Limit("more than 0", 0, open_low=True, open_high=True)
    )

    def check(self) -> None:
        """Refuse what cannot be; a baseline that is a number in a text is that number."""
        super().check()
        if self.baseline_lr is not None:
            parse_rate(self.baseline_lr)
        if isinstance(self.baseline, str):
            with contextlib.suppress(ValueError):  # a method
                score = float(self.baseline)
                if math.isfinite(score):
                    object.__setattr__(self, "baseline", score)


class SearchFields(TypedDict, total=False):
    """The fields of `SearchOptions`, as keywords of a function."""

    rule: RuleName | None
    fraction: float
    within: float | None
    dims: Sequence[int]
    low: int | None
    high: int | None
    start: int
    resolution: float
    budget: float | None
    parallel: int
    seeds: int
    full_curve: bool
    prune: bool
    test: bool
    baseline: str | float
    baseline_lr: float | str | None
    baseline_epochs: float | None
