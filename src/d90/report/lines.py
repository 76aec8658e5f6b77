"""Pages of studies that are lines: d90 along a pretraining run or a family, scores against the number of examples."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d90.report.environment import environment
from d90.report.svg import COLOURS, STYLE, for_page, rendered
from d90.report.words import SHARES, count

__all__ = ["lowdata_page", "series_page", "write_page"]

DASHES = {"last": "-", "own": "--"}
TARGETS = {"last": "the last model's target", "own": "its own target"}


@dataclass(frozen=True)
class Line:
    """Points by x, with half the height of their bars (0 for none)."""

    label: str
    points: Sequence[tuple[float, float, float]]
    colour: int
    dash: str = "-"


def write_page(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a page to its file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    return target


def series_page(study: dict[str, Any]) -> str:
    """The page of a trajectory or a family, `asdict(Series)`."""
    from markupsafe import Markup

    tasks = list(dict.fromkeys(cell["task"] for cell in study["cells"]))
    lines = []
    for i, task in enumerate(tasks):
        for target in ("last", "own"):
            cells = [c for c in study["cells"] if (c["task"], c["target"]) == (task, target) and c["d90"] is not None]
            points = sorted((float(c["x"]), float(c["d90"]), 0.0) for c in cells)
            if points:
                lines.append(Line(f"{_base(task)}, {TARGETS[target]}", points, i, DASHES[target]))
    scores = [
        Line(_base(task), points, i)
        for i, task in enumerate(tasks)
        if (
            points := sorted(
                {
                    (float(c["x"]), c["score"], 0.0)
                    for c in study["cells"]
                    if c["task"] == task and c["score"] is not None
                }
            )
        )
    ]
    title = {"trajectory": "d90 along a pretraining run", "family": "d90 against the number of weights"}[study["kind"]]
    wide = study["kind"] == "family"
    figures = [_figure(title, lines, study["xlabel"], "d90", wide, True, "d")] if lines else []
    if scores:
        figures.append(_figure("Full fine-tuning", scores, study["xlabel"], "validation score", wide, False, "f"))
    return (
        environment()
        .get_template("series.html")
        .render(**study, title=title, figures=[Markup(figure) for figure in figures], targets=TARGETS)
    )


def lowdata_page(study: dict[str, Any]) -> str:
    """The page of a low-data study, `asdict(LowData)`."""
    from markupsafe import Markup

    first = study["comparisons"][0]
    metric = first["metric"]
    rows = []
    for i, entry in enumerate(first["entries"]):
        cells = []
        for comparison in study["comparisons"]:
            one = comparison["entries"][i]
            scores = one["test"] or one["validation"]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            cells.append({"mean": statistics.fmean(scores), "spread": spread, "lr": one["lr"]})
        rows.append({"asked": entry["asked"], "stored": entry["stored"], "cells": cells})
    factor = 100 if metric in SHARES else 1
    lines = [
        Line(
            row["asked"],
            [
                (float(n), factor * c["mean"], factor * c["spread"])
                for n, c in zip(study["counts"], row["cells"], strict=True)
            ],
            i,
        )
        for i, row in enumerate(rows)
    ]
    label = f"{first['split']} {metric}{' (%)' if factor == 100 else ''}"
    figure = _figure(f"{study['model']} on {study['task']}", lines, "training examples", label, True, False, "l")
    return (
        environment()
        .get_template("lowdata.html")
        .render(
            **study,
            metric=metric,
            split=first["split"],
            seeds=first["seeds"],
            chance=first["chance"],
            rows=rows,
            svg=Markup(figure),
        )
    )


def _figure(title: str, lines: Sequence[Line], xlabel: str, ylabel: str, log_x: bool, log_y: bool, prefix: str) -> str:
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 3.8 + 0.1 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        told = {}
        for i, line in enumerate(lines):
            xs, ys, bars = zip(*line.points, strict=True)
            colour = COLOURS[line.colour % len(COLOURS)]
            axes.plot(xs, ys, line.dash, color=colour, linewidth=1.3, label=_stand_in(i, line.label))
            if any(bars):
                axes.errorbar(xs, ys, yerr=bars, fmt="none", ecolor=colour, linewidth=1, capsize=2)
            axes.plot(xs, ys, "o", color=colour, markersize=5)[0].set_gid(f"{prefix}{i}-dots")
            told[f"{prefix}{i}-dots"] = [f"{line.label}: {y:,.6g} at {x:,.0f}" for x, y, _ in line.points]
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
            if log:
                axis.set_minor_formatter(NullFormatter())
                axis.set_major_formatter(FuncFormatter(lambda value, _: count(int(value)) if value >= 1 else ""))
        axes.set_title("TITLE0", loc="left", fontsize=10)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.margins(0.08)
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=8.5)
        text = rendered(figure)
    import html

    shown = for_page(text, [title], told, prefix)
    for i, line in enumerate(lines):
        shown = shown.replace(f">{_stand_in(i, line.label)}<", f">{html.escape(line.label)}<")
    return shown


def _stand_in(index: int, label: str) -> str:
    """Takes a label's room in the layout; the label itself may be any text, and mathematics to matplotlib."""
    return f"L{index:03d}" + "n" * (len(label) - 4)


def _base(task: str) -> str:
    return os.path.basename(task.rstrip("/")) or task
