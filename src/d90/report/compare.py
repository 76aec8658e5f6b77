"""The page of `d90 compare`: score against stored numbers, and a table of what each method costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from d90.analysis.score_interval import clearly_above, indistinct
from d90.errors import InputError
from d90.report.environment import render, write_page
from d90.report.labels import name_points
from d90.report.svg import COLOURS, INK, for_page, log_ticks, new_axes, own_style, put_labels, rendered
from d90.report.words import axis, score, short_count
from d90.results.compare import Comparison, Entry
from d90.results.result import stored_results
from d90.tasks.metrics import LOSS, to_display
from d90.trials.store import Store

__all__ = ["comparison_figure", "comparison_page", "interval", "verdicts", "write_comparisons"]


def write_comparisons(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write the page of every comparison in a store.

    Raises:
        InputError: nothing was compared yet.
    """
    studies = stored_results(store, Comparison, "compare")
    if not studies:
        raise InputError(f"no comparison in '{store.path}'; run 'd90 compare' first")
    with store.reading():
        text = comparison_page(studies)
    return write_page(text, path)


def comparison_page(studies: Sequence[Comparison], *, index: str = "") -> str:
    """The page as text; equal studies give equal bytes.

    Args:
        index: the file that lists the whole store, to link back to; "" where there is none.
    """
    from markupsafe import Markup

    shown = [
        {
            **vars(study),
            "svg": Markup(comparison_figure(study, f"c{i}")),
            "rows": _by_size(study),
            "intervals": {entry.asked: interval(entry, study.metric) for entry in study.entries},
            "known": any(interval(entry, study.metric) for entry in study.entries),
            "costs": any(entry.cost for entry in study.entries),
            "verdicts": verdicts(study),
            "forgotten": forgotten_on(study),
            "kept_svg": Markup(comparison_figure(study, f"k{i}", forgetting=True)) if forgotten_on(study) else "",
        }
        for i, study in enumerate(studies, 1)
    ]
    return render("compared.html", index=index, studies=shown)


def _by_size(study: Comparison) -> list[Entry]:
    return sorted(study.entries, key=lambda entry: entry.stored)


def interval(entry: Entry, metric: str) -> str:
    """The interval of a method's score, in the unit the reader sees; empty where it is not known, as before it was measured."""
    if entry.low is None or entry.high is None:
        return ""
    low, high = sorted(to_display(end, metric) for end in (entry.low, entry.high))
    return f"{low:.4f} to {high:.4f}"


def forgotten_on(study: Comparison) -> list[str]:
    """The texts on which forgetting was measured, in the order of an entry's figures; none where it was not."""
    return next(([one.on for one in entry.forgetting] for entry in study.entries if entry.forgetting), [])


def alike(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """For each method, those of lower score whose difference from it is noise."""
    known = [(one, (one.high - one.low) / 2) for one in entries if one.low is not None and one.high is not None]
    known.sort(key=lambda pair: -pair[0].mean)
    found: dict[str, list[str]] = {}
    for i, (better, half) in enumerate(known):
        for other, its in known[i + 1 :]:
            if indistinct(better.mean, half, other.mean, its):
                found.setdefault(better.asked, []).append(other.asked)
    return found


def verdicts(study: Comparison) -> list[str]:
    """What the scores of a comparison say, a sentence a line: chance, what is above it, and which differences are noise."""
    metric, chance = study.metric, study.chance
    lines = [f"chance: {to_display(chance, metric):.4f}, what the best constant guess scores"]
    low = [entry.asked for entry in study.entries if not clearly_above(entry.mean, entry.low, chance)]
    if low:
        lines.append(f"not above chance by more than the interval, so of no rank: {', '.join(low)}")
    if len(low) < len(study.entries):
        lines.append("* above chance, and none stores less and does better")
    on = forgotten_on(study)
    if on:
        lines.append(
            f"forgets: nats a token lost against the plain base, and the standard error, on {' and on '.join(on)}"
        )
    lines += [f"{best}: not told apart from {', '.join(others)}" for best, others in alike(study.entries).items()]
    if any(entry.low is not None for entry in study.entries):
        seeds = f"{study.seeds} seeds" if study.seeds > 1 else "one seed, whose spread is not known"
        examples = "a loss, so without its examples" if metric == LOSS else f"the {study.split} split's size"
        lines.append(
            f"interval: 95 %, from {seeds}, and {examples}; differences within two intervals are not told apart"
        )
    return lines


def comparison_figure(study: Comparison, prefix: str, forgetting: bool = False) -> str:
    """Score against stored numbers, log scale, a line through the Pareto front; or against what was forgotten of the base's own text.

    A dot a method, with its spread.
    """
    rows = [row for row in _by_size(study) if row.forgetting or not forgetting]
    at = {row.asked: row.forgetting[0].mean if forgetting else row.stored for row in rows}
    title = [f"{study.model} on {study.task}"]
    with own_style():
        figure, axes = new_axes(4.4, grid=False)
        if not forgetting:
            axes.set_xscale("log")
        factor, label = axis(study.metric)
        for row in rows:
            if row.spread:
                ends = [factor * (row.mean - row.spread), factor * (row.mean + row.spread)]
                axes.plot([at[row.asked]] * 2, ends, color=INK, linewidth=1)
        best = [row for row in rows if row.front]
        if not forgetting:
            axes.plot(
                [row.stored for row in best], [factor * row.mean for row in best],
                color=COLOURS[0], linewidth=1.2, drawstyle="steps-post", marker="o", markersize=6, label="best for its size",
            )  # fmt: skip
        for name, chosen, colour in (("front", True, COLOURS[0]), ("others", False, COLOURS[1])):
            group = [row for row in rows if row.front is chosen]
            dots = axes.plot(
                [at[row.asked] for row in group], [factor * row.mean for row in group],
                "o", markersize=6, color=colour, label="" if chosen else "another stores less and does better" * bool(group),
            )  # fmt: skip
            dots[0].set_gid(f"{name}-dots")
        axes.set_xlabel("forgets, nats a token of the base's own text" if forgetting else "numbers stored (log scale)")
        axes.set_ylabel(f"{study.split} {label}")
        axes.margins(x=0.2, y=0.15)  # names are centred over their dots, the first and the last too
        if not forgetting:
            log_ticks(axes.xaxis, lambda value: short_count(round(value)))
            figure.legend(frameon=False, loc="outside lower left", ncols=2, fontsize=8.5)
        points = [(at[row.asked], factor * row.mean) for row in rows]
        name_points(figure, axes, points, [_short(row.asked) for row in rows])
        drawn = rendered(figure)
    shown = {
        f"{name}-dots": [
            f"{row.asked}: {score(row.mean, study.metric)}, {_words(row, forgetting)}"
            for row in rows
            if row.front is chosen
        ]
        for name, chosen in (("front", True), ("others", False))
    }
    text = for_page(drawn, title, {key: value for key, value in shown.items() if value}, prefix)
    return put_labels(text, [_short(row.asked) for row in rows])


def _words(row: Entry, forgetting: bool) -> str:
    return f"forgets {row.forgetting[0].mean:.3f} nats" if forgetting else f"{row.stored:,} stored"


def _short(method: str, most: int = 22) -> str:
    return method if len(method) <= most else f"{method[: most - 1]}…"
