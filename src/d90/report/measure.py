"""The page: reads stored runs alone, and writes one HTML file that opens offline."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.files import write_text
from d90.report.environment import environment
from d90.report.figure import figure_svg, points
from d90.report.words import (
    Study,
    answer,
    baseline_name,
    chance,
    constant_name,
    headline,
    names,
    reached,
    spread,
    sure,
    threshold_name,
    trained_there,
    variance,
)
from d90.tasks.metrics import rises
from d90.trials.store import Store, Stored

__all__ = ["headline", "page", "write_report"]

MAX_OTHERS = 300  # trials of no measurement that are listed, the latest; a long sweep must not make a long page


def write_report(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write the page of every measurement in a store.

    Raises:
        InputError: nothing was measured yet.
    """
    studies = store.studies()
    if not studies:
        raise InputError(f"no measurement in '{store.path}'; run 'd90 measure' first")
    with store.reading():
        text = page(studies, store.trials())
    return write_text(path, text)


def page(studies: Sequence[Study], trials: Sequence[Stored] = ()) -> str:
    """The page as text; equal studies and trials give equal bytes.

    Args:
        studies: stored measurements, `asdict(Measurement)`.
        trials: every trial of the store; those that no measurement used are listed at the end.
    """
    from markupsafe import Markup

    groups: dict[tuple[str, str, str], list[Study]] = defaultdict(list)
    for study in studies:
        groups[study["model"], study["task"], study["metric"]].append(study)
    overlays = [
        {"title": f"{model} on {task}", "svg": Markup(figure_svg(group, f"o{i}"))}
        for i, ((model, task, _), group) in enumerate(groups.items(), 1)
        if len(group) > 1
    ]
    short = {id(study): name for group in groups.values() for study, name in zip(group, names(group), strict=True)}
    shown = [
        {
            **study,
            "short": short[id(study)],
            "headline": headline(study),
            "svg": Markup(figure_svg([study], f"s{i}")),
            "chance": chance(study),
            "constant_name": constant_name(study),
            "baseline_name": baseline_name(study),
            "threshold_name": threshold_name(study),
            "answer": answer(study),
            "sign": "≥" if rises(study["metric"]) else "≤",
            "spread": spread(study),
            "trained_there": trained_there(study),
            "shipped": sure(study),
            "failures": {tuple(one) for one in study.get("failed", ())},
            "scatter": variance(study) if study.get("variance") else "",
            "trials": [{"p_seed": p["seed"], **p, "reached": reached(study, p)} for p in points(study)],
            "command": study.get("command", ""),
        }
        for i, study in enumerate(studies, 1)
    ]
    others = _others(studies, trials)
    template = environment().get_template("page.html")
    return template.render(
        studies=shown, overlays=overlays, others=others[-MAX_OTHERS:], left_out=max(0, len(others) - MAX_OTHERS)
    )


def _others(studies: Sequence[Study], trials: Sequence[Stored]) -> list[Stored]:
    """Trials that no measurement used: of an interrupted one, of `d90 train`."""
    used: set[tuple[Any, ...]] = set()
    for study in studies:
        names_of = _recipe(study["recipe"])
        used |= {
            (re.sub(r",seed=\d+$", "", study["method"]), names_of, point["d"], point["seed"])
            for point in study["curve"]
        }
    baselines = {
        (s["model"], s["task"], s["baseline_method"], value) for s in studies for value in s["baseline_scores"]
    }
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


def _recipe(recipe: dict[str, Any]) -> str:
    return str(sorted((key, str(value)) for key, value in recipe.items() if key not in ("method", "seed")))
