"""A row for each of several values, with its interval, beside lines that they are read against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from d90.report.svg import COLOURS, INK, for_page, new_axes, own_style, put_labels, rendered, stand_in

__all__ = ["Interval", "intervals_figure"]

LONGEST = 34  # letters of a row's label


@dataclass(frozen=True)
class Interval:
    """A value with its ends, which may all be one."""

    label: str
    value: float
    low: float
    high: float


def intervals_figure(title: str, xlabel: str, rows: Sequence[Interval], levels: Sequence[tuple[float, str]]) -> str:
    """The figure, the first row at the top; `levels` are vertical lines with their names."""
    labels = [row.label if len(row.label) <= LONGEST else f"{row.label[: LONGEST - 1]}…" for row in rows]
    with own_style():
        figure, axes = new_axes(1.3 + 0.24 * (len(rows) + len(levels)), title_lines=0)
        figure.suptitle(
            "TITLE0", x=0.01, ha="left", fontsize=10
        )  # over the labels too, which leave the axes little room
        places = range(len(rows))
        for place, row in zip(places, rows, strict=True):
            axes.plot([row.low, row.high], [place, place], color=COLOURS[0], lw=1.2)
        axes.plot([row.value for row in rows], places, "o", color=COLOURS[0], markersize=5.5)[0].set_gid("rows-dots")
        for value, name in levels:
            axes.axvline(value, color=INK, lw=1.2, ls=":", label=name)
        axes.set_yticks(places, [stand_in(i, label) for i, label in enumerate(labels)])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(xlabel)
        if levels:
            figure.legend(loc="outside lower left", frameon=False, fontsize=8.5)
        text = rendered(figure)
    shown = [f"{row.label}: {row.value:,.4g} ({row.low:,.4g} to {row.high:,.4g})" for row in rows]
    return put_labels(for_page(text, [title], {"rows-dots": shown}, "i"), labels)
