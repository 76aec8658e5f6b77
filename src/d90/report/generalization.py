"""The page of generalization: d90 against evaluation accuracy and against the relative gap, a colour for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from d90.report.environment import render
from d90.report.svg import COLOURS, for_page, log_ticks, new_axes, own_style, put_labels, rendered, stand_in
from d90.report.words import base_name, short_count
from d90.results.generalization import GeneralizationRow

__all__ = ["gaps_figures", "gaps_page", "rank_correlation"]

MARKS = "osD^vP*X"
NARROW = 31  # letters of a label, of which two fit beside one another


@dataclass(frozen=True)
class _Dot:
    x: float
    y: float
    task: str  # with its rule where it is not the paper's: thresholds of two rules do not compare
    rule: str
    shown: str


def gaps_page(rows: Sequence[GeneralizationRow], levels: int, command: str = "") -> str:
    """The page of the rows; equal rows give equal bytes."""
    from markupsafe import Markup

    figures = [{"svg": Markup(svg), "words": words} for svg, words in gaps_figures(rows)]
    shown = [{**vars(row), "name": _name(row)} for row in rows]
    return render("gaps.html", rows=shown, figures=figures, levels=levels, command=command)


def gaps_figures(rows: Sequence[GeneralizationRow]) -> list[tuple[str, str]]:
    """d90 against accuracy, and against the gap, each with what it says; only those that have a dot."""
    figures: list[tuple[str, str]] = []
    for values, label, title in (
        ([row.baseline for row in rows], "full fine-tuning, validation score", "d90 against evaluation accuracy"),
        ([row.gap for row in rows], "relative gap of the tune at d90", "d90 against the relative generalization gap"),
    ):
        dots = [
            _Dot(row.d90, value, _group(row), row.rule, f"{_name(row)}: d90 = {row.d90:,}, {value:.4f}")
            for row, value in zip(rows, values, strict=True)
            if value is not None
        ]
        if dots:
            figures.append((_figure(title, dots, label, f"g{len(figures)}"), _words(dots)))
    return figures


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Spearman's, ties at their mean rank; None for fewer than three points or where one side does not vary."""
    if len(xs) < 3 or len(set(xs)) == 1 or len(set(ys)) == 1:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(xs, ys).statistic)


def _words(dots: Sequence[_Dot]) -> str:
    shown = []
    groups = {task: [dot for dot in dots if dot.task == task] for task in _tasks(dots)}
    for rule in dict.fromkeys(dot.rule for dot in dots):
        every = [dot for dot in dots if dot.rule == rule]
        if len(_tasks(every)) > 1:
            groups[f"all tasks, {rule} rule,"] = every
    for name, group in groups.items():
        rho = rank_correlation([dot.x for dot in group], [dot.y for dot in group])
        if rho is not None:
            shown.append(f"{base_name(name)} {rho:+.2f} over {len(group)}")
    if not shown:
        return "Too few measurements for a rank correlation: three of different d90 are the least."
    return f"Rank correlation with d90: {'; '.join(shown)}."


def _figure(title: str, dots: Sequence[_Dot], ylabel: str, prefix: str) -> str:
    with own_style():
        tasks = _tasks(dots)
        columns = 2 if max(len(base_name(task)) for task in tasks) <= NARROW else 1
        figure, axes = new_axes(3.6 + 0.19 * -(-len(tasks) // columns))
        axes.set_xscale("log")
        hover = {}
        for i, task in enumerate(tasks):
            own = sorted((dot for dot in dots if dot.task == task), key=lambda dot: (dot.x, dot.y))
            gid = f"{prefix}{i}-dots"
            axes.plot(
                [dot.x for dot in own], [dot.y for dot in own], MARKS[i % len(MARKS)], color=COLOURS[i % len(COLOURS)],
                markersize=6, label=stand_in(i, base_name(task)),
            )[0].set_gid(gid)  # fmt: skip
            hover[gid] = [dot.shown for dot in own]
        axes.set_xlabel("d90 (log scale)")
        axes.set_ylabel(ylabel)
        axes.margins(0.1)
        log_ticks(axes.xaxis, lambda value: short_count(round(value)))
        figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5)
        text = rendered(figure)
    return put_labels(for_page(text, [title], hover, prefix), [base_name(task) for task in tasks])


def _group(row: GeneralizationRow) -> str:
    return str(row.task) if row.rule == "paper" else f"{row.task}, {row.rule} rule"


def _tasks(dots: Sequence[_Dot]) -> list[str]:
    return list(dict.fromkeys(dot.task for dot in dots))


def _name(row: GeneralizationRow) -> str:
    method = str(row.method).partition("@")
    space = dict(part.split("=", 1) for part in method[2].split(",") if "=" in part)
    return f"{base_name(row.model)} on {base_name(row.task)}, {method[0]} {space.get('structure', 'did').upper()}, {row.rule} rule"
