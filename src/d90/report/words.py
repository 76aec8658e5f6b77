"""Numbers and answers in words: never a number where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Study", "baseline_name", "chance_name", "count", "headline", "names", "score", "seconds", "threshold_name"]

Study = dict[str, Any]  # a stored Measurement

SHARES = ("accuracy", "f1")  # metrics that are read as percent
USUAL = ("layer=block", "head=inside", "scale=tensor")  # left out of a method's short name


def score(value: float, metric: str) -> str:
    """A score in its metric: 0.8739 of accuracy is 87.39 %."""
    return f"{100 * value:.2f} %" if metric in SHARES else f"{value:.4f}"


def count(number: int) -> str:
    """A number of weights: 22.7 million, 199,210."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {word}"
    return f"{number:,}"


def seconds(time: float) -> str:
    """A stretch of computing."""
    return f"{time:,.1f} s" if time < 10 else f"{time:,.0f} s" if time < 600 else f"{time:,.0f} s ({time / 3600:.1f} h)"


def chance_name(study: Study) -> str:
    """Which of the two chance is."""
    return "untrained model" if study["zero"] > study["majority"] else "majority class"


def baseline_name(study: Study) -> str:
    """What the score is a share of."""
    method = str(study["baseline_method"])
    return {"full": "full fine-tuning", "a given number": "the given baseline"}.get(method, method)


def threshold_name(study: Study) -> str:
    """The threshold as its rule states it."""
    base = "full" if study["baseline_method"] == "full" else baseline_name(study)
    share = f"{100 * study['fraction']:g} %"
    return f"{share} of {base}, paper rule" if study["rule"] == "paper" else f"chance + {share} of the gain, gain rule"


def headline(study: Study) -> str:
    """The answer in a sentence."""
    base, metric = baseline_name(study), study["metric"]
    level, full = score(study["threshold"], metric), score(study["baseline"], metric)
    share = f"{100 * study['fraction']:g} %"
    goal = (
        f"{level} {metric}, {share} of {base} ({full})"
        if study["rule"] == "paper"
        else f"{level} {metric}, chance plus {share} of what {base} ({full}) gains over it"
    )
    d, low, weights = study["d90"], study["interval"][0], count(study["D"])
    if study["status"] == "found":
        short = "" if low is None else f"; d = {low:,} falls short"
        return f"d90 = {d:,} of {weights} weights: the smallest d found to reach {goal}{short}."
    if study["status"] == "floor":
        return f"d90 is at most {d:,} of {weights} weights: the lowest d possible here already reaches {goal}."
    chance = f"{score(max(study['majority'], study['zero']), metric)}, {chance_name(study)}"
    if study["status"] == "trivial":
        more = (
            f"{base} itself does no better."
            if study["baseline"] <= max(study["majority"], study["zero"])
            else "every d would pass; the gain rule may tell more."
        )
        return f"No d90: the threshold, {level} {metric}, is not above chance ({chance}): {more}"
    tried = "no d tried" if low is None else f"no d up to {low:,}, the highest tried,"
    return f"No d90 found: {tried} reaches {goal}."


def names(studies: Sequence[Study]) -> list[str]:
    """What tells each study from its neighbours: its method, less what is usual; rule and baseline where they differ;
    then whatever of the recipe does."""
    told = [[_method(study["method"])] for study in studies]
    for key, show in (
        ("rule", lambda s: f"{s['rule']} rule"),
        ("fraction", lambda s: f"{100 * s['fraction']:g} %"),
        ("baseline_method", lambda s: f"against {baseline_name(s)}"),
    ):
        if len({study[key] for study in studies}) > 1:
            for parts, study in zip(told, studies, strict=True):
                parts.append(show(study))
    for field in sorted({field for study in studies for field in study["recipe"]}):
        values = [str(study["recipe"].get(field)) for study in studies]
        if len(set(values)) > 1:
            for parts, value in zip(told, values, strict=True):
                parts.append(f"{field} {value}")
    joined = [", ".join(parts) for parts in told]
    return [name if joined.count(name) == 1 else f"{name} (no. {i})" for i, name in enumerate(joined, 1)]


def _method(text: str) -> str:
    method, _, space = text.partition("@")
    kept = [part.partition("=")[2] for part in space.split(",") if part and part not in USUAL]
    return " ".join([method, *(word.upper() if word in ("did", "said") else word for word in kept)])
