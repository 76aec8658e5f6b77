"""The page: reads stored runs alone, and writes one HTML file that opens offline."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.report.environment import render, write_page
from d90.report.figure import figure_svg, points
from d90.report.words import (
    answer,
    baseline_name,
    constant_name,
    headline,
    names,
    spread,
    sure,
    threshold_name,
    trained_there,
    variance,
)
from d90.results.measure import Measurement
from d90.results.result import stored_results
from d90.tasks.metrics import rises
from d90.trials.store import Store, Stored

__all__ = ["headline", "page", "write_report"]

MAX_OTHERS = 300  # trials of no measurement that are listed, the latest; a long sweep must not make a long page


def write_report(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write the page of every measurement in a store.

    Raises:
        InputError: nothing was measured yet.
    """
    studies = stored_results(store, Measurement, "measure")
    if not studies:
        raise InputError(f"no measurement in '{store.path}'; run 'd90 measure' first")
    with store.reading():
        text = page(studies, store.trials())
    return write_page(text, path)


def page(studies: Sequence[Measurement], trials: Sequence[Stored] = ()) -> str:
    """The page as text; equal studies and trials give equal bytes.

    Args:
        studies: measurements.
        trials: every trial of the store; those that no measurement used are listed at the end.
    """
    from markupsafe import Markup

    groups: dict[tuple[str, str, str], list[Measurement]] = defaultdict(list)
    for study in studies:
        groups[study.model, study.task, study.metric].append(study)
    overlays = [
        {"title": f"{model} on {task}", "svg": Markup(figure_svg(group, f"o{i}"))}
        for i, ((model, task, _), group) in enumerate(groups.items(), 1)
        if len(group) > 1
    ]
    short = {id(study): name for group in groups.values() for study, name in zip(group, names(group), strict=True)}
    shown = [
        {
            **vars(study),
            "short": short[id(study)],
            "headline": headline(study),
            "svg": Markup(figure_svg([study], f"s{i}")),
            "chance": study.chance,
            "constant_name": constant_name(study),
            "baseline_name": baseline_name(study),
            "threshold_name": threshold_name(study),
            "answer": answer(study),
            "sign": "≥" if rises(study.metric) else "≤",
            "spread": spread(study),
            "trained_there": trained_there(study),
            "shipped": sure(study),
            "failures": set(study.failed),
            "scatter": variance(study),
            "trials": [{**vars(point), "reached": study.reached(point)} for point in points(study)],
        }
        for i, study in enumerate(studies, 1)
    ]
    others = _others(studies, trials)
    left_out = max(0, len(others) - MAX_OTHERS)
    return render("page.html", studies=shown, overlays=overlays, others=others[-MAX_OTHERS:], left_out=left_out)


def _others(studies: Sequence[Measurement], trials: Sequence[Stored]) -> list[Stored]:
    """Trials that no measurement used: of an interrupted one, of `d90 train`."""
    used: set[tuple[Any, ...]] = set()
    for study in studies:
        names_of = _recipe(study.recipe)
        used |= {(re.sub(r",seed=\d+$", "", study.method), names_of, point.d, point.seed) for point in study.curve}
    baselines = {(s.model, s.task, s.baseline_method, value) for s in studies for value in s.baseline_scores}
    left = []
    for trial in trials:
        recipe = trial.recipe
        # a measurement names its method without d, and keeps its recipe without method and seed
        method = re.sub(r",seed=\d+$", "", str(recipe["method"]))
        method = method.replace(f"@d={trial.d},", "@").removesuffix(f"@d={trial.d}")
        of_baseline = trial.d is None and (recipe["model"], recipe["task"], method, trial.score) in baselines
        if not of_baseline and (method, _recipe(recipe), trial.d, trial.seed) not in used:
            left.append(trial)
    return left


def _recipe(recipe: Mapping[str, Any]) -> str:
    return str(sorted((key, str(value)) for key, value in recipe.items() if key not in ("method", "seed")))
