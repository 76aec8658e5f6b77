"""Score against d, as in figure 1 of Aghajanyan et al. 2021: what to draw of one or several stored measurements.

A dot is a trial; an arrow up one that stopped once it passed, so that its score is a lower bound; an arrow down one that was
given up; a hollow cross one that diverged. The line is the monotone fit, shaded where it lies with the interval's probability.
Several measurements of one model and task share a figure, a colour for each method.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from d90.report.draw import Dot, Level, Look, Mark, Trials, draw
from d90.report.words import (
    baseline_name,
    chance_name,
    names,
    score,
    spread,
    threshold_name,
)
from d90.results.measure import Measurement, Point
from d90.search.rules import scale_of
from d90.tasks.metrics import rises, to_display

__all__ = ["figure_svg", "points"]

RECIPE = ("lr", "epochs", "batch_size", "precision", "train_limit")  # shown of a trial when pointed at
MAX_LEVELS = 3  # labelled lines of a kind; more would be a wall, and stand in the summary table


def points(study: Measurement) -> list[Point]:
    """A measurement's trials by d and seeds, each once: a d asked for twice was trained once."""
    once = {(point.d, point.seed, point.p_seed): point for point in study.curve}
    return [once[key] for key in sorted(once)]


def figure_svg(studies: Sequence[Measurement], prefix: str) -> str:
    """One figure of measurements that share model, task and metric; `prefix` is unique on the page."""
    first = studies[0]
    alone = len(studies) == 1
    title = [_short(f"{first.model} on {first.task}"), *([_short(names(studies)[0])] if alone else [])]
    # measurements that differ in their threshold alone share their trials, and so their colour
    keys = [(study.method, str(study.recipe)) for study in studies]
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    groups = [[study for study, its in zip(studies, keys, strict=True) if its == key] for key in index]
    labels = names([group[0] for group in groups])
    series = [_series(group, label, alone) for group, label in zip(groups, labels, strict=True)]
    marks = []
    for study, key in zip(studies, keys, strict=True):
        low, high = study.interval if study.coverage is not None else (study.interval[0], study.d90)
        if study.status == "unreachable" and low is not None and alone:
            marks.append(Mark(None, (low, None), f"d90 above {low:,}", index[key]))
        if study.d90 is not None and study.status in ("found", "floor"):
            text = f"d90 {'=' if study.status == 'found' else 'at most'} {study.d90:,}"
            # beside others its colour tells the method, and its threshold which of that method's
            more = f" at {score(study.threshold, first.metric)}"
            if alone:
                more = "" if low is None else f", bracket ({low:,}, {study.d90:,}]"
                more = f", {spread(study)}" if study.status == "found" and study.coverage is not None else more
            marks.append(Mark(study.d90, (low, high) if alone else None, text + more, index[key]))
    limits = (1, max(study.D for study in studies))
    metric = first.metric
    look = Look(f"validation {metric}", percent=scale_of(metric).share, falls=not rises(metric))
    return draw(title, look, limits, series, _levels(studies), marks, prefix)


def _series(group: Sequence[Measurement], name: str, alone: bool) -> Trials:
    metric = group[0].metric
    once: dict[tuple[int, int, int], Point] = {}
    for study in group:
        for point in points(study):
            if math.isfinite(point.score):
                key = (point.d, point.seed, point.p_seed)
                # of one trial stopped at a threshold and run to its end, the end tells more
                if key not in once or once[key].at_least or once[key].below:
                    once[key] = point
    dots, complete = [], defaultdict(list)
    for point in once.values():
        below = "below" if point.below else "trial"
        kind = "diverged" if point.status == "diverged" else "bound" if point.at_least else below
        if kind == "trial":
            complete[point.d].append(to_display(point.score, metric))
        sign = f"at {'least' if rises(metric) else 'most'} " if point.at_least else ""
        shown = (
            f"{'' if alone else name + ', '}d = {point.d:,}, seed {point.seed}{_of_p(point)}: {sign}"
            f"{score(point.score, metric)}, {point.status}, {point.seconds:.0f} s\n{_recipe(group[0])}"
        )
        dots.append(Dot(point.d, to_display(point.score, metric), kind, shown))
    shown_band = group[0].band if alone else ()
    band = [(d, to_display(mean, metric), to_display(a, metric), to_display(b, metric)) for d, mean, a, b in shown_band]
    return Trials(name, dots, [(d, sum(complete[d]) / len(complete[d])) for d in sorted(complete)], band)


def _recipe(study: Measurement) -> str:
    """What the trials have in common, in a line: what moves, and the parts of the recipe that decide a run."""
    shown = {key: getattr(study.settings, key) for key in RECIPE if key in study.recipe}
    if "lr" in shown:  # a user's own loop has no recipe
        shown["lr"] = shown["lr"] or "default"
    return ", ".join([study.method, *(f"{key} {value}" for key, value in shown.items() if value is not None)])


def _of_p(point: Point) -> str:
    return f", P's {point.p_seed}" if point.p_seed != point.seed else ""


def _levels(studies: Sequence[Measurement]) -> list[Level]:
    metric = studies[0].metric
    chances = [(study.chance, f"chance, {chance_name(study)}") for study in studies]
    kinds = (
        ("-", [(study.baseline, baseline_name(study)) for study in studies], "baselines, see the table"),
        ("--", [(study.threshold, threshold_name(study)) for study in studies], "thresholds, see the table"),
        (":", chances, "chance, see the table"),
    )
    levels = []
    for dash, lines, many in kinds:
        once = sorted({(round(value, 12), name) for value, name in lines}, reverse=True)
        for i, (value, name) in enumerate(once):
            label = f"{name}: {score(value, metric)}" if len(once) <= MAX_LEVELS else many if i == 0 else ""
            levels.append(Level(to_display(value, metric), label, dash))
    return levels


def _short(text: str, most: int = 76) -> str:
    """A title that fits: a long path loses its middle."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]} … {text[-most // 2 + 2 :]}"
