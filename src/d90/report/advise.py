"""The page of `d90 advise`: the sentence, score against stored numbers with the margin, and what everything rests on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from d90.errors import InputError
from d90.report.environment import render, write_page
from d90.report.svg import COLOURS, INK, for_page, log_ticks, new_axes, own_style, rendered
from d90.report.words import axis, score, short_count
from d90.results.advise import Recommendation, Tried
from d90.results.result import stored_results
from d90.trials.store import Store

__all__ = ["advice_figure", "advice_page", "write_advice"]


def write_advice(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write the page of every advice in a store.

    Raises:
        InputError: nothing was asked yet.
    """
    studies = stored_results(store, Recommendation, "advise")
    if not studies:
        raise InputError(f"no advice in '{store.path}'; run 'd90 advise' first")
    with store.reading():
        text = advice_page(studies)
    return write_page(text, path)


def advice_page(studies: Sequence[Recommendation], *, index: str = "") -> str:
    """The page as text; equal studies give equal bytes.

    Args:
        index: the file that lists the whole store, to link back to; "" where there is none.
    """
    from markupsafe import Markup

    shown = [
        {
            **vars(study),
            "lines": study.lines(),
            "rows": _rows(study),
            "svg": Markup(advice_figure(study, f"a{i}")) if any(one.scores for one in _rows(study)) else "",
            "falls": [
                f"{name}: the best rate falls as size^-{fall:.2f} (give or take {deviation:.2f}), from {read} sizes"
                for name, fall, deviation, read in study.rates
                if read
            ],
        }
        for i, study in enumerate(studies, 1)
    ]
    return render("advised.html", index=index, studies=shown)


def _rows(study: Recommendation) -> list[Tried]:
    """Every method that ran, by stored numbers."""
    reference = [study.reference] if study.reference else []
    return sorted([*study.tried, *reference], key=lambda one: (one.stored, one.method))


def advice_figure(study: Recommendation, prefix: str) -> str:
    """Scores with their standard errors against stored numbers, and the line that is good enough."""
    rows = [one for one in _rows(study) if one.scores]
    with own_style():
        figure, axes = new_axes(3.8, grid=False)
        axes.set_xscale("log")
        factor, label = axis(study.metric)
        goal = (
            study.goal if study.goal is not None else study.reference.score - study.margin if study.reference else None
        )
        if goal is not None:
            axes.axhline(factor * goal, color=INK, lw=1.2, ls="--", label="good enough")
        groups = {
            "shown": ([one for one in rows if one.shown], COLOURS[2], "shown to be no worse"),
            "others": ([one for one in rows if not one.shown and one is not study.reference], COLOURS[1], "not shown"),
            "reference": ([one for one in rows if one is study.reference], COLOURS[0], "reference"),
        }
        for key, (group, colour, name) in groups.items():
            if group:
                x, y = [one.stored for one in group], [factor * one.score for one in group]
                axes.errorbar(x, y, yerr=[abs(factor) * one.error for one in group], fmt="none", ecolor=colour, lw=1)
                dots = axes.plot(x, y, "o", markersize=6, color=colour, label=name)
                dots[0].set_gid(f"{key}-dots")
        axes.set_xlabel("numbers stored (log scale)")
        axes.set_ylabel(f"held-out {label}")
        axes.margins(x=0.12, y=0.15)
        log_ticks(axes.xaxis, lambda value: short_count(round(value)))
        axes.legend(frameon=False, loc="best", fontsize=8.5)
        drawn = rendered(figure)
    hover = {
        f"{key}-dots": [f"{one.method}: {score(one.score, study.metric)} at {one.lr:g}" for one in group]
        for key, (group, _, _) in groups.items()
        if group
    }
    return for_page(drawn, [f"{study.model} on {study.task}"], hover, prefix)
