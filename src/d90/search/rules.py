"""The rules: which score is enough.

    paper    fraction x full                               (Aghajanyan et al. 2021, section 3)
    gain     chance + fraction x (full - chance)           chance: the better of the majority class and the untrained model
    margin   full - within points, by a paired test of non-inferiority on the same examples (`d90.analysis.paired`)

full: the mean score of full fine-tuning, or of the method it is held against. A share of a score means something where 0 is
the worst there is; a correlation's zero is chance and a loss has none, so for them the gain rule alone will do. A margin in
points wants a metric that counts examples: accuracy, F1 and Matthews do.
"""

from __future__ import annotations

from dataclasses import dataclass

from d90.errors import InputError, unknown_name
from d90.options import RULES

__all__ = ["Goal", "Scale", "choose_rule", "goal", "scale_of", "set_scale"]


@dataclass(frozen=True)
class Scale:
    """What the numbers of a metric mean: rules, noise and pages go by it, never by a metric's name.

    Attributes:
        share: a share of something: 0 is the worst there is and 1 the best, so that a share of it means something.
        correlation: from -1 to 1, and 0 without any skill.
        counted: made from the confusion table of independent examples, so that two models are compared example by example.
        proportion: the share of independent examples that are right, each either right or wrong.
        answers: of answers that a language model writes.
    """

    share: bool = False
    correlation: bool = False
    counted: bool = False
    proportion: bool = False
    answers: bool = False


SCALES = {
    "accuracy": Scale(share=True, counted=True, proportion=True),
    "f1": Scale(share=True, counted=True),
    "matthews": Scale(correlation=True, counted=True),
    "pearson": Scale(correlation=True),
    "spearman": Scale(correlation=True),
    "exact": Scale(share=True, counted=True, proportion=True, answers=True),
    "contains": Scale(share=True, counted=True, proportion=True, answers=True),
    "script": Scale(share=True, answers=True),
}


def scale_of(metric: str) -> Scale:
    """What a metric's numbers mean; of a loss, and of a metric that nothing was said of, nothing but that more is better."""
    return SCALES.get(metric.partition(":")[0], Scale())


def set_scale(metric: str, scale: Scale) -> None:
    """Say what the numbers of a metric mean.

    Raises:
        InputError: something else was said before.
    """
    if SCALES.setdefault(metric, scale) != scale:
        raise InputError(f"got {scale} for metric '{metric}', which has {SCALES[metric]}; give yours another name")


@dataclass(frozen=True)
class Goal:
    """What a score must reach, as a function of the full score: intercept + slope x full."""

    intercept: float
    slope: float

    def at(self, full: float) -> float:
        """The threshold where full fine-tuning scores `full`."""
        return self.intercept + self.slope * full


def choose_rule(rule: str | None, metric: str, fraction: float, within: float | None) -> str:
    """The rule that is meant; None is margin where `within` is given, else the paper's where the metric allows it.

    Raises:
        InputError: an unknown rule, or one that does not fit the metric, or values that do not fit the rule.
    """
    if rule is None:
        rule = "margin" if within is not None else "paper" if scale_of(metric).share else "gain"
    if rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    if not 0 < fraction <= 1:
        raise InputError(f"got fraction={fraction}, expected a share of the baseline, 0 < fraction <= 1")
    if rule == "margin":
        if within is None or not 0 < within < 100:
            raise InputError(f"got within={within} for the margin rule, expected points between 0 and 100, as in 1")
        if not scale_of(metric).counted:
            counted = ", ".join(name for name, scale in SCALES.items() if scale.counted)
            raise InputError(
                f"got the margin rule for {metric}, expected one of {counted}: points of {metric} are not "
                "counts of examples. Use rule 'gain'"
            )
    elif within is not None:
        raise InputError(f"got within={within} with the {rule} rule, expected it with rule 'margin'; leave one out")
    if rule == "paper" and not scale_of(metric).share:
        raise InputError(
            f"got the paper rule for {metric}, expected rule 'gain': a share of {metric} is no share of what was "
            "learned, its zero being no worst score"
        )
    return rule


def goal(rule: str, chance: float, fraction: float, within: float | None = None) -> Goal:
    """The rule as a function of the full score."""
    if rule == "margin":
        return Goal(-(within or 0.0) / 100, 1.0)
    return Goal((1 - fraction) * chance if rule == "gain" else 0.0, fraction)
