"""Numbers and answers in words: never a number where there is none."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from d90.results.measure import Measurement
from d90.search.rules import scale_of
from d90.search.summary import ends_in_words, seeds_in_words
from d90.tasks.metrics import rises, to_display

__all__ = [
    "answer",
    "axis",
    "base_name",
    "baseline_name",
    "chance_name",
    "constant_name",
    "count",
    "difference",
    "headline",
    "names",
    "score",
    "seconds",
    "short_count",
    "spread",
    "sure",
    "threshold_name",
    "trained_there",
    "variance",
]

USUAL = ("layer=block", "head=inside", "scale=tensor")  # left out of a method's short name


def score(value: float, metric: str) -> str:
    """A score in its metric: 0.8739 of accuracy is 87.39 %, -3.2 of a loss is 3.2."""
    return difference(to_display(value, metric), metric)


def difference(value: float, metric: str) -> str:
    """A distance between scores, as a standard deviation is one: like a score, without its sign."""
    return f"{100 * value:.2f} %" if scale_of(metric).share else f"{value:.4f}"


def axis(metric: str) -> tuple[float, str]:
    """What a score is multiplied by along an axis, and what the axis is called."""
    return (100.0, f"{metric} (%)") if scale_of(metric).share else (to_display(1.0, metric), metric)


def base_name(path: str) -> str:
    """The last part of a task's or a model's path."""
    return os.path.basename(path.rstrip("/")) or path


def count(number: int) -> str:
    """A number of weights: 22.7 million, 199,210."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {word}"
    return f"{number:,}"


def short_count(number: int) -> str:
    """The same along an axis: 22.7 M, 10 M, 199,210."""
    for size, letter in ((10**9, "B"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,}"


def seconds(time: float) -> str:
    """A stretch of computing."""
    return f"{time:,.1f} s" if time < 10 else f"{time:,.0f} s" if time < 600 else f"{time:,.0f} s ({time / 3600:.1f} h)"


def constant_name(study: Measurement) -> str:
    """What the answer that looks at no input is: a class, or where there are none a value or frequencies."""
    scale = scale_of(study.metric)
    return "commonest answer" if scale.answers else "majority class" if scale.counted else "constant guess"


def chance_name(study: Measurement) -> str:
    """Which of the two chance is."""
    return "untrained model" if study.zero > study.majority else constant_name(study)


def baseline_name(study: Measurement) -> str:
    """What the score is a share of."""
    method = str(study.baseline_method)
    return {"full": "full fine-tuning", "a given number": "the given baseline"}.get(method, method)


def threshold_name(study: Measurement) -> str:
    """The threshold as its rule states it."""
    base = "full" if study.baseline_method == "full" else baseline_name(study)
    share = f"{100 * study.fraction:g} %"
    if study.rule == "margin":
        return f"within {_points(study)} of {base}, margin rule"
    return f"{share} of {base}, paper rule" if study.rule == "paper" else f"chance + {share} of the gain, gain rule"


def _points(study: Measurement) -> str:
    return f"{study.within:g} point{'' if study.within == 1 else 's'}"


def spread(study: Measurement) -> str:
    """The interval, or the bracket of a measurement that had none: (what failed, d90]."""
    low, high = study.interval
    if study.status == "trivial":
        return "not searched"
    if study.status == "found" and study.coverage is not None:
        return f"{100 * study.coverage:g} % interval {ends_in_words(low, high)}"
    if study.open_ends:
        return ends_in_words(low, high)
    shown = f"d = {low:,} falls short" if low is not None else "no d fell short"
    return shown + (f", d = {high:,} reaches it" if high else ", no d reached it")


def answer(study: Measurement) -> str:
    """d90 alone: a number, a bound, or why there is none."""
    d = study.d90
    return (
        f"{d:,}"
        if study.status == "found"
        else f"at most {d:,}"
        if study.status == "floor"
        else f"above {study.interval[0]:,}"
        if study.status == "unreachable" and study.open_ends
        else "not bounded by these trials"
        if study.status == "unknown"
        else f"none ({study.status})"
    )


def trained_there(study: Measurement) -> str:
    """What training at d90 itself gave, and against which threshold."""
    ended = [p for p in study.curve if p.d == study.d90 and p.status == "finished"]
    if not ended:
        return "not trained to the end there"
    metric, seeds = study.metric, seeds_in_words([p.p_seed for p in ended])
    mean = score(math.fsum(p.score for p in ended) / len(ended), metric)
    return f"trained there with {seeds}: mean {mean}, threshold {score(study.threshold, metric)}"


def sure(study: Measurement) -> str:
    """The d that someone who ships a tune wants; nothing where a study of before does not say."""
    if not study.open_ends or study.status == "trivial":
        return ""
    return "not known by these trials" if study.sure is None else f"{study.sure:,}"


def variance(study: Measurement) -> str:
    """Whose seed the scatter is; nothing where no trial tells."""
    shares = study.variance
    if shares is None:
        return ""
    low, high = shares.interval
    return (
        f"standard deviation {difference(shares.deviation, study.metric)}; P's seed {100 * shares.projection:.0f} % of the variance "
        f"({100 * low:.0f} to {100 * high:.0f} %), training's the rest, from {shares.trials} trials"
    )


def headline(study: Measurement) -> str:
    """The answer in a sentence."""
    base, metric = baseline_name(study), study.metric
    level, full = score(study.threshold, metric), score(study.baseline, metric)
    share = f"{100 * study.fraction:g} %"
    goal = {
        "paper": f"{level} {metric}, {share} of {base} ({full})",
        "gain": f"{level} {metric}, chance plus {share} of what {base} ({full}) gains over it",
        "margin": f"within {_points(study) if study.rule == 'margin' else ''} of {base} ({full} {metric})",
    }[study.rule]
    d, low, weights = study.d90, study.interval[0], count(study.D)
    if study.status == "found" and study.coverage is not None:
        scatter = (
            "the mean over seeds reaches" if study.rule != "margin" else "a paired test on the same examples finds it"
        )
        return f"d90 = {d:,} of {weights} weights, {spread(study)}: there {scatter} {goal}."
    if study.status == "found":
        short = "" if low is None else f"; d = {low:,} falls short"
        return f"d90 = {d:,} of {weights} weights: the smallest d found to reach {goal}{short}."
    if study.status == "floor":
        if study.open_ends:
            return f"d90 is at most {d:,} of {weights} weights, not bounded below by these trials: every d tried reaches {goal}."
        return f"d90 is at most {d:,} of {weights} weights: the smallest d tried already reaches {goal}."
    if study.status == "unknown":
        return f"d90 is not bounded by these trials, of {len(study.curve)} in a subspace: too few to say where {goal} is reached."
    if study.status == "unreachable" and study.open_ends:
        return f"d90 is above {low:,} of {weights} weights, not bounded above by these trials: none reaches {goal} for sure."
    of_chance = f"{score(study.chance, metric)}, {chance_name(study)}"
    if study.status == "trivial":
        more = (
            f"{base} itself does no better."
            if study.baseline <= study.chance
            else "every d would pass; the gain rule may tell more."
        )
        return f"No d90: the threshold, {level} {metric}, is not {'above' if rises(metric) else 'below'} chance ({of_chance}): {more}"
    passed = sorted({point.d for point in study.curve if study.reached(point)})
    if passed:
        once = ", ".join(f"{d:,}" for d in passed)
        short = "" if low is None else f", {low:,} the largest"
        return f"No d90 found: d = {once} reached {goal}, but a larger d fell short{short}."
    tried = "no d tried" if low is None else f"no d up to {low:,}, the highest tried,"
    return f"No d90 found: {tried} reaches {goal}."


def names(studies: Sequence[Measurement]) -> list[str]:
    """What tells each study from its neighbours: its method, less what is usual; rule and baseline where they differ;
    then whatever of the recipe does."""
    shown = [[_method(study.method)] for study in studies]
    for key, show in (
        ("rule", lambda s: f"{s.rule} rule"),
        ("fraction", lambda s: f"{100 * s.fraction:g} %"),
        ("within", lambda s: f"within {s.within:g}" if s.within else "no margin"),
        ("baseline_method", lambda s: f"against {baseline_name(s)}"),
    ):
        if len({getattr(study, key) for study in studies}) > 1:
            for parts, study in zip(shown, studies, strict=True):
                parts.append(show(study))
    for field in sorted({field for study in studies for field in study.recipe}):
        values = [str(study.recipe.get(field)) for study in studies]
        if len(set(values)) > 1:
            for parts, value in zip(shown, values, strict=True):
                parts.append(f"{field} {value}")
    joined = [", ".join(parts) for parts in shown]
    return [name if joined.count(name) == 1 else f"{name} (no. {i})" for i, name in enumerate(joined, 1)]


def _method(text: str) -> str:
    method, _, space = text.partition("@")
    kept = [part.partition("=")[2] for part in space.split(",") if part and part not in USUAL]
    return " ".join([method, *(word.upper() if word in ("did", "said") else word for word in kept)])
