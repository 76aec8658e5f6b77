"""The page: reads stored runs alone, and writes one HTML file that opens offline."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
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
from d90.trials.row import TrialRow
from d90.trials.store import Store

__all__ = ["headline", "other_trials", "page", "write_report"]

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
        text = page(studies, other_trials(store))
    return write_page(text, path)


def page(studies: Sequence[Measurement], others: Sequence[TrialRow] = (), *, index: str = "") -> str:
    """The page as text; equal studies and trials give equal bytes.

    Args:
        studies: measurements.
        others: trials that none of them used, listed at the end.
        index: the file that lists the whole store, to link back to; "" where there is none.
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
            "svg": Markup(figure_svg([study], f"s{i}")) if study.curve else "",
            "next_step": _next_step(study),
            "chance": study.chance,
            "constant_name": constant_name(study),
            "baseline_name": baseline_name(study),
            "threshold_name": threshold_name(study),
            "answer": answer(study),
            "sign": "≥" if rises(study.metric) else "≤",
            "spread": spread(study),
            "trained_there": trained_there(study),
            "validation_examples": study.validation_examples,
            "shipped": sure(study),
            "failures": set(study.failed),
            "scatter": variance(study),
            "trials": [{**vars(point), "reached": study.reached(point)} for point in points(study)],
        }
        for i, study in enumerate(studies, 1)
    ]
    left_out = max(0, len(others) - MAX_OTHERS)
    last = others[-MAX_OTHERS:]
    return render("page.html", index=index, studies=shown, overlays=overlays, others=last, left_out=left_out)


def _next_step(study: Measurement) -> str:
    """What to do about a measurement that has nothing to draw."""
    if study.status == "trivial":
        return "nothing was trained in a subspace, since every d would pass: ask with --rule gain, or train the baseline longer"
    return "nothing was trained in a subspace yet: the same command with a larger --budget goes on from here"


def other_trials(store: Store) -> list[TrialRow]:
    """The trials of a store that no measurement used: of an interrupted one, of a comparison."""
    own, lent = set[str](), set[str]()
    shown, earlier = set[tuple[Any, ...]](), set[tuple[Any, ...]]()
    for key, kind, body in store.all_studies():
        if kind != "measure":
            continue
        study, used = Measurement.from_dict(body), store.used(key)
        values = {(study.model, study.task, point.d, point.seed, point.score) for point in study.curve}
        if used:
            own |= {trial for trial, made in used.items() if made}
            lent |= set(used)  # of what others had made, a measurement learned d from its curve alone
            shown |= values
        else:  # of before trials were noted: known by its numbers
            earlier |= values | {(study.model, study.task, None, None, score) for score in study.baseline_scores}
    left = []
    for row in store.trials():
        about = (row.recipe.model, row.recipe.task, row.d, None if row.d is None else row.seed, row.score)
        if row.key not in own and about not in earlier and not (row.key in lent and about in shown):
            left.append(row)
    return left
