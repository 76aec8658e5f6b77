"""The page of `d90 compare`: score against stored numbers, and a table of what each method costs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d90.analysis.score_interval import clearly_above, indistinct
from d90.errors import InputError
from d90.files import write_text
from d90.report.environment import environment
from d90.report.svg import COLOURS, INK, STYLE, for_page, rendered
from d90.report.words import axis, count, score
from d90.tasks.metrics import LOSS, to_display
from d90.trials.store import Store

__all__ = ["comparison_page", "interval", "verdicts", "write_comparisons"]


def write_comparisons(store: Store, path: str | os.PathLike[str]) -> Path:
    """Write the page of every comparison in a store.

    Raises:
        InputError: nothing was compared yet.
    """
    studies = store.studies("compare")
    if not studies:
        raise InputError(f"no comparison in '{store.path}'; run 'd90 compare' first")
    with store.reading():
        text = comparison_page(studies)
    return write_text(path, text)


def comparison_page(studies: Sequence[dict[str, Any]]) -> str:
    """The page as text; `studies` are stored comparisons, `asdict(Comparison)`."""
    from markupsafe import Markup

    shown = [
        {
            **study,
            "svg": Markup(_figure(study, f"c{i}")),
            "rows": [_row(entry) for entry in sorted(study["entries"], key=lambda entry: entry["stored"])],
            "intervals": {entry["asked"]: interval(entry, study["metric"]) for entry in study["entries"]},
            "verdicts": verdicts(study),
        }
        for i, study in enumerate(studies, 1)
    ]
    return environment().get_template("compared.html").render(studies=shown)


def interval(entry: Mapping[str, Any], metric: str) -> str:
    """The interval of a method's score, in the unit the reader sees; empty where it is not known, as before it was measured."""
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    low, high = sorted(to_display(entry[end], metric) for end in ("low", "high"))
    return f"{low:.4f} to {high:.4f}"


def alike(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """For each method, those of lower score whose difference from it is noise; `rows` as `_row` makes them."""
    known = sorted((row for row in rows if row.get("low") is not None), key=lambda row: -row["mean"])
    halves = [(row["high"] - row["low"]) / 2 for row in known]
    found: dict[str, list[str]] = {}
    for i, row in enumerate(known):
        for j in range(i + 1, len(known)):
            if indistinct(row["mean"], halves[i], known[j]["mean"], halves[j]):
                found.setdefault(row["asked"], []).append(known[j]["asked"])
    return found


def verdicts(study: Mapping[str, Any]) -> list[str]:
    """What the scores of a comparison say, a sentence a line: chance, what is above it, and which differences are noise."""
    rows, metric, chance = [_row(entry) for entry in study["entries"]], study["metric"], study["chance"]
    lines = [f"chance: {to_display(chance, metric):.4f}, what the best constant guess scores"]
    low = [row["asked"] for row in rows if not clearly_above(row["mean"], row.get("low"), chance)]
    if low:
        lines.append(f"not above chance by more than the interval, so of no rank: {', '.join(low)}")
    if len(low) < len(rows):
        lines.append("* above chance, and none stores less and does better")
    lines += [f"{best}: not told apart from {', '.join(others)}" for best, others in alike(rows).items()]
    if any(row.get("low") is not None for row in rows):
        seeds = f"{study['seeds']} seeds" if study["seeds"] > 1 else "one seed, whose spread is not known"
        examples = "a loss, so without its examples" if metric == LOSS else f"the {study['split']} split's size"
        lines.append(
            f"interval: 95 %, from {seeds}, and {examples}; differences within two intervals are not told apart"
        )
    return lines


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    scores = entry["test"] or entry["validation"]
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    return {**entry, "mean": statistics.fmean(scores), "spread": spread}


def _figure(study: dict[str, Any], prefix: str) -> str:
    """Score against stored numbers, log scale; a dot a method with its spread, a line through the Pareto front."""
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    rows = [_row(entry) for entry in sorted(study["entries"], key=lambda entry: entry["stored"])]
    title = [f"{study['model']} on {study['task']}"]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xscale("log")
        factor, label = axis(study["metric"])
        for row in rows:
            if row["spread"]:
                ends = [factor * (row["mean"] - row["spread"]), factor * (row["mean"] + row["spread"])]
                axes.plot([row["stored"]] * 2, ends, color=INK, linewidth=1)
        best = [row for row in rows if row["front"]]
        axes.plot(
            [row["stored"] for row in best], [factor * row["mean"] for row in best],
            color=COLOURS[0], linewidth=1.2, drawstyle="steps-post", label="best for its size",
        )  # fmt: skip
        for name, chosen, colour in (("front", True, COLOURS[0]), ("others", False, COLOURS[1])):
            group = [row for row in rows if row["front"] is chosen]
            dots = axes.plot(
                [row["stored"] for row in group], [factor * row["mean"] for row in group],
                "o", markersize=6, color=colour,
            )  # fmt: skip
            dots[0].set_gid(f"{name}-dots")
        for i, row in enumerate(rows):
            low = i % 2 == 1
            axes.annotate(
                f"NAME{i:03d}", (row["stored"], factor * row["mean"]), xytext=(0, -13 if low else 7),
                textcoords="offset points", ha="center", fontsize=7.5,
            )  # fmt: skip
        axes.set_title("TITLE0", loc="left", fontsize=10)
        axes.set_xlabel("numbers stored (log scale)")
        axes.set_ylabel(f"{study['split']} {label}")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(int(value)) if value >= 1 else ""))
        axes.margins(x=0.12, y=0.15)
        axes.legend(frameon=False, loc="lower right" if factor > 0 else "upper right", fontsize=8)
        drawn = rendered(figure)
    shown = {
        f"{name}-dots": [
            f"{row['asked']}: {score(row['mean'], study['metric'])}, {row['stored']:,} stored"
            for row in rows
            if row["front"] is chosen
        ]
        for name, chosen in (("front", True), ("others", False))
    }
    text = for_page(drawn, title, {key: value for key, value in shown.items() if value}, prefix)
    return _named(text, rows)


def _named(svg: str, rows: Sequence[dict[str, Any]]) -> str:
    import html

    for i, row in enumerate(rows):
        svg = svg.replace(f">NAME{i:03d}<", f">{html.escape(_short(row['asked']))}<")
    return svg


def _short(method: str, most: int = 22) -> str:
    return method if len(method) <= most else f"{method[: most - 1]}…"
