"""Pages of studies that are lines: d90 along a pretraining run or a family, scores against the number of examples."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from d90.report.claims import lowdata_claims, series_claims
from d90.report.environment import render
from d90.report.svg import COLOURS, for_page, log_ticks, new_axes, own_style, put_labels, rendered, stand_in
from d90.report.words import axis, base_name, score, short_count
from d90.results.low_data import LowData
from d90.results.series import Cell, Series
from d90.search.summary import ends_in_words
from d90.tasks.metrics import to_display

__all__ = ["answered", "interval", "lowdata_figure", "lowdata_page", "series_figures", "series_page"]

NARROW = 31  # letters of a label, of which two fit beside one another
OPEN = 1.6  # an open interval's arrow reaches so many times as far as its point
DASHES = {"last": "-", "own": "--"}
TITLES = {"trajectory": "d90 along a pretraining run", "family": "d90 against the number of weights"}
TARGETS = {"last": "the last model's target", "own": "its own target"}


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        points: (x, y, low, high), the last two the ends of a bar, both y for none; an end of zero or infinity is open, an arrow.
        shown: what the pointer shows of each.
        above: where there is no y because nothing is large enough: an arrow at the top.
    """

    label: str
    points: Sequence[tuple[float, float, float, float]]
    colour: int
    dash: str = "-"
    shown: Sequence[str] = ()
    above: Sequence[float] = ()


def series_page(study: Series, *, index: str = "") -> str:
    """The page of a trajectory or a family.

    Args:
        index: the file that lists the whole store, to link back to; "" where there is none.
    """
    from markupsafe import Markup

    tasks = _tasks(study)
    lasts = {task: [cell.model for cell in study.cells if cell.task == task][-1] for task in tasks}
    shared = os.path.commonprefix([cell.model for cell in study.cells])  # noqa: RUF071  (cut to whole parts next)
    folder = shared.rpartition("/")[0]
    folder = f"{folder}/" if folder else ""
    return render(
        "series.html",
        index=index,
        study=study,
        tables=[(task, [_shown(cell, folder) for cell in study.cells if cell.task == task]) for task in tasks],
        folder=folder,
        title=TITLES[study.kind],
        figures=[Markup(figure) for figure in series_figures(study)],
        targets=TARGETS,
        others={base_name(task): (giver, lasts[task]) for task, giver in study.givers.items() if giver != lasts[task]},
        both=len(_targets(study)) > 1,
        claims=series_claims(study),
    )


def series_figures(study: Series) -> list[str]:
    """d90 against the models, then full fine-tuning's scores; where nothing was measured there is nothing to draw."""
    xs = sorted({cell.x for cell in study.cells if cell.status != "failed"})
    scale = "log" if study.kind == "family" else _scale(xs)
    lines = [line for i, task in enumerate(_tasks(study)) for line in _answers(study, i, task, _targets(study))]
    scores = [line for i, task in enumerate(_tasks(study)) for line in _full_scores(study, i, task)]
    figures = []
    if lines:
        title, label = TITLES[study.kind], "d90, with its 90 % interval"
        figures.append(_figure(lines, _Frame(title, study.xlabel, label, scale, "log", "d", xs)))
    if scores:
        title, label = "Full fine-tuning of each", f"validation {_metric(study)}"
        figures.append(_figure(scores, _Frame(title, study.xlabel, label, scale, "linear", "f", xs)))
    return figures


def _tasks(study: Series) -> list[str]:
    return list(dict.fromkeys(cell.task for cell in study.cells))


def _targets(study: Series) -> list[str]:
    return list(dict.fromkeys(cell.target for cell in study.cells))


def _answers(study: Series, colour: int, task: str, asked: Sequence[str]) -> Iterator[Line]:
    """A line of d90 for each target of a task; a model whose target no d reached is an arrow at the top."""
    for target in asked:
        own = [cell for cell in study.cells if (cell.task, cell.target) == (task, target)]
        found = sorted(((cell, cell.d90) for cell in own if cell.d90 is not None), key=lambda pair: pair[0].x)
        above = [float(cell.x) for cell in own if cell.status == "unreachable"]
        if found or above:
            more = f", {TARGETS[target]}" if len(asked) > 1 else ""
            points = [(float(cell.x), float(d90), *_ends(cell)) for cell, d90 in found]
            shown = [f"{cell.model}, {TARGETS[cell.target]}: {answered(cell)}{interval(cell)}" for cell, _ in found]
            dash = DASHES[target] if len(asked) > 1 else "-"
            yield Line(f"{base_name(task)}{more}", points, colour, dash, shown, above)


def _full_scores(study: Series, colour: int, task: str) -> Iterator[Line]:
    """The line of full fine-tuning's scores on a task, where any is known."""
    full = {
        (float(cell.x), one, one, one)
        for cell in study.cells
        if cell.task == task and cell.score is not None
        for one in [to_display(cell.score, cell.metric)]
    }
    if full:
        yield Line(base_name(task), sorted(full), colour)


def _metric(study: Series) -> str:
    """What the models' scores are; of several metrics, and of an older study that does not say, a score."""
    metrics = {cell.metric for cell in study.cells} - {""}
    return metrics.pop() if len(metrics) == 1 else "score"


def _shown(cell: Cell, folder: str) -> dict[str, object]:
    name, ends = cell.model.removeprefix(folder), interval(cell).removeprefix(", ")
    return {**vars(cell), "name": name, "answer": answered(cell), "ends": ends}


def answered(cell: Cell) -> str:
    """A cell's d90, or why there is none."""
    if cell.d90 is not None:
        return f"{'at most ' if cell.status == 'floor' else ''}{cell.d90:,}"
    if cell.status == "unreachable" and cell.interval[0] is not None:
        return f"above {cell.interval[0]:,}"
    return {"unknown": "not bounded", "unreachable": "none reaches it", "trivial": "target at chance"}.get(
        cell.status, cell.status
    )


def interval(cell: Cell) -> str:
    """Its interval in words, with a comma before it; nothing where there is none."""
    low, high = cell.interval
    if low is None and high is None:
        return ""
    return f", {ends_in_words(low, high)}"


def _ends(cell: Cell) -> tuple[float, float]:
    low, high = cell.interval
    return 0.0 if low is None else float(low), math.inf if high is None else float(high)


def _scale(xs: Sequence[int]) -> str:
    """Checkpoints at doubled steps want a logarithm, with room for step 0; those at equal distances do not."""
    return "symlog" if xs and sorted(xs)[len(xs) // 2] < max(xs) / 4 else "linear"


def lowdata_page(study: LowData, *, index: str = "") -> str:
    """The page of a low-data study.

    Args:
        index: the file that lists the whole store, to link back to; "" where there is none.
    """
    from markupsafe import Markup

    return render(
        "lowdata.html",
        index=index,
        study=study,
        first=study.comparisons[0],
        rows=study.rows(),
        claims=lowdata_claims(study),
        svg=Markup(lowdata_figure(study)),
    )


def lowdata_figure(study: LowData) -> str:
    """Scores against the number of training examples, a line for each method."""
    first = study.comparisons[0]
    factor, label = axis(first.metric)
    rows = study.rows()
    lines = []
    for i, (asked, entries) in enumerate(rows.items()):
        known = [(n, entry) for n, entry in zip(study.counts, entries, strict=True) if entry is not None]
        apart = 1.03 ** (i - (len(rows) - 1) / 2)  # so that no bar hides another
        points = []
        for n, entry in known:
            mean, half = factor * entry.mean, abs(factor) * entry.spread
            points.append((n * apart, mean, mean - half, mean + half))
        shown = [f"{asked}, n = {n:,}: {score(entry.mean, first.metric)}" for n, entry in known]
        lines.append(Line(asked, points, i, shown=shown))
    title, values = f"{study.model} on {study.task}", f"{first.split} {label}"
    return _figure(lines, _Frame(title, "training examples (log scale)", values, "log", "linear", "l", study.counts))


@dataclass(frozen=True)
class _Frame:
    """What stands around the lines of a figure: its words, scales, and the values of x that were measured (`ticks`)."""

    title: str
    xlabel: str
    ylabel: str
    xscale: str
    yscale: str
    prefix: str
    ticks: Sequence[int]


def _figure(lines: Sequence[Line], frame: _Frame) -> str:
    with own_style():
        columns = 2 if max(len(line.label) for line in lines) <= NARROW else 1
        rows = -(-len(lines) // columns)
        figure, axes = new_axes(3.7 + 0.19 * rows)
        hover: dict[str, list[str]] = {}
        for i, line in enumerate(lines):
            if line.points:
                hover[f"{frame.prefix}{i}-dots"] = _draw(axes, line, i, f"{frame.prefix}{i}-dots")
        arrows = [(x, line.colour) for line in lines for x in line.above]
        for n, (x, which) in enumerate(arrows):
            axes.plot(
                [x], [1.0], "^", transform=axes.get_xaxis_transform(), clip_on=False, fillstyle="none", markersize=7,
                color=COLOURS[which % len(COLOURS)], label="" if n else "above every d tried",
            )  # fmt: skip
        _scale_x(axes, frame)
        if frame.yscale == "log":
            _scale_y(axes, lines)
        axes.set_xlabel(frame.xlabel)
        axes.set_ylabel(frame.ylabel)
        axes.margins(0.06)
        if frame.yscale == "log":
            log_ticks(axes.yaxis, lambda value: short_count(round(value)))
        figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5, columnspacing=1.5)
        text = rendered(figure)
    return put_labels(for_page(text, [frame.title], hover, frame.prefix), [line.label for line in lines])


def _draw(axes: Any, line: Line, i: int, gid: str) -> list[str]:
    """A line with its intervals, open ends as arrows; what its dots say when they are pointed at."""
    colour = COLOURS[line.colour % len(COLOURS)]
    xs, ys, lows, highs = zip(*line.points, strict=True)
    axes.plot(xs, ys, line.dash, color=colour, linewidth=1.3, label=stand_in(i, line.label), marker="o", markersize=5)
    if lows != highs:
        look = {"fmt": "none", "ecolor": colour, "elinewidth": 1, "capsize": 2.5, "alpha": 0.6}
        bars = [
            [y - low if low > 0 else 0.0 for y, low in zip(ys, lows, strict=True)],
            [0.0 if math.isinf(high) else high - y for y, high in zip(ys, highs, strict=True)],
        ]
        axes.errorbar(xs, ys, yerr=bars, **look)
        for x, y in ((x, y) for x, y, _, high in line.points if math.isinf(high)):
            axes.errorbar([x], [y], yerr=[[0.0], [(OPEN - 1) * y]], lolims=True, **look)
        for x, y in ((x, y) for x, y, low, _ in line.points if low == 0):
            axes.errorbar([x], [y], yerr=[[(1 - 1 / OPEN) * y], [0.0]], uplims=True, **look)
    axes.plot(xs, ys, "o", color=colour, markersize=5)[0].set_gid(gid)
    return list(line.shown) or [f"{line.label}: {y:,.6g} at {x:,.0f}" for x, y, *_ in line.points]


def _scale_x(axes: Any, frame: _Frame) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    positive = [x for x in frame.ticks if x > 0]
    if frame.xscale == "symlog":
        axes.set_xscale("symlog", linthresh=min(positive), linscale=0.6)
    elif frame.xscale == "log" and len(positive) == len(frame.ticks):
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_apart(frame.ticks, frame.xscale)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(round(value))))


def _scale_y(axes: Any, lines: Sequence[Line]) -> None:
    """A logarithm."""
    values = [value for line in lines for point in line.points for value in point[1:] if 0 < value < math.inf]
    if not values:  # every model is above every d tried: no value to take the axis from
        axes.set_ylim(1.0, 10.0)
    axes.set_yscale("log")


def _apart(ticks: Sequence[int], scale: str) -> list[int]:
    """Of the values that were measured those whose labels do not meet, the largest always among them."""
    least = min((x for x in ticks if x > 0), default=1)

    def at(x: int) -> float:
        return float(x) if scale == "linear" else math.log(max(x, least / 4))

    chosen: list[int] = []
    for x in sorted(set(ticks), reverse=True):
        if not chosen or at(chosen[-1]) - at(x) >= (at(max(ticks)) - at(min(ticks))) / 10:
            chosen.append(x)
    return chosen
