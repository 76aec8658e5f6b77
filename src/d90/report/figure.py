"""Accuracy against d, as in figure 1 of Aghajanyan et al. 2021: an SVG made from one or several stored measurements."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

__all__ = ["curve_svg"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all eyes
GREY = "#808080"  # readable on light and on dark

Study = dict[str, Any]


def curve_svg(studies: Sequence[Study], names: Sequence[str]) -> str:
    """One figure: a colour for each study, which share model, task and metric.

    A dot is a trial; an arrow one that stopped once it passed, so that its score is a lower bound; a cross one that
    diverged. The line joins the mean of the trials at each d.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "d90",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": GREY,
        "axes.labelcolor": GREY,
        "axes.edgecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "legend.labelcolor": GREY,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for spine in ("top", "right"):
            axes.spines[spine].set_visible(False)
        for study, name, colour in zip(studies, names, COLOURS * len(studies), strict=False):
            _draw(axes, study, name, colour, alone=len(studies) == 1)
        first = studies[0]
        axes.axhline(first["baseline"], color=GREY, lw=1.2, label=f"full fine-tuning {first['baseline']:.3f}")
        for threshold, rule in sorted({(s["threshold"], f"{s['fraction']:.0%}, {s['rule']} rule") for s in studies}):
            axes.axhline(threshold, color=GREY, lw=1.2, ls="--", label=f"threshold {threshold:.3f} ({rule})")
        chance = max(first["majority"], first["zero"])
        axes.axhline(chance, color=GREY, lw=1.2, ls=":", label=f"chance {chance:.3f}")
        if not any(study["curve"] for study in studies):
            axes.set_xlim(1, max(study["D"] for study in studies))  # nothing was trained: the lines alone
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda d, _: f"{d:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("d, numbers trained")
        axes.set_ylabel(f"validation {first['metric']}")
        axes.grid(alpha=0.2, color=GREY)
        axes.legend(frameon=False, fontsize=8, loc="best")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # its own size gives way to the page's width
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*"', r'<svg \1width="100%"', re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", svg)
    )


def _draw(axes: Any, study: Study, name: str, colour: str, alone: bool) -> None:
    by_d: dict[int, list[float]] = defaultdict(list)
    for point in study["curve"]:
        if point["status"] != "diverged":
            by_d[point["d"]].append(point["score"])
    ds = sorted(by_d)
    axes.plot(ds, [sum(by_d[d]) / len(by_d[d]) for d in ds], color=colour, lw=1, alpha=0.5)
    kinds = {"trial": ("o", 28), "at least (stopped once it passed)": ("^", 40), "diverged": ("x", 34)}
    said: set[str] = set()
    for point in study["curve"]:
        kind = (
            "diverged"
            if point["status"] == "diverged"
            else "at least (stopped once it passed)"
            if point["at_least"]
            else "trial"
        )
        marker, size = kinds[kind]
        label = None
        if kind not in said:
            label = kind if alone else name if not said else None
        said.add(kind)
        axes.scatter([point["d"]], [point["score"]], marker=marker, s=size, color=colour, label=label, zorder=3)
    low, high = study["interval"]
    if study["status"] == "found" and study["d90"] is not None:
        axes.axvline(study["d90"], color=colour, lw=1.2, label=f"d90 = {study['d90']:,}{'' if alone else f' ({name})'}")
        if low is not None:
            axes.axvspan(low, high, color=colour, alpha=0.12, lw=0)
