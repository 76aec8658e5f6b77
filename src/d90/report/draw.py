"""Drawing: dots, levels and marks become one SVG to stand inside a page.

matplotlib's own defaults are used, whatever the user has set, and given back; equal input gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d90.report.svg import COLOURS, INK, for_page, log_ticks, new_axes, own_style, rendered

__all__ = ["Dot", "Level", "Look", "Mark", "Trials", "draw"]

KINDS = ("trial", "bound", "below", "diverged")
WIDEST = 68  # letters in a row of a legend of two columns


@dataclass(frozen=True)
class Look:
    """The vertical axis: its name, whether its values are percent, and whether better is lower, as of a loss."""

    label: str
    percent: bool = False
    falls: bool = False

    def named(self, kind: str) -> str:
        """One of KINDS in the legend."""
        least, below = ("most", "above") if self.falls else ("least", "below")
        return {"bound": f"at {least}: stopped once it passed", "below": f"given up: would have stayed {below}"}.get(
            kind, kind
        )

    def up(self, kind: str) -> bool:
        """Whether what is known of a bound lies above its dot."""
        return (kind == "bound") is not self.falls


@dataclass(frozen=True)
class Dot:
    """One trial; `kind` is one of KINDS, `value` stands on the axis, `hover` is what the pointer shows."""

    d: int
    value: float
    kind: str
    hover: str


@dataclass(frozen=True)
class Trials:
    """The trials of one method in one colour, and the line of means; `band`, where there is one, is (d, mean, low, high)."""

    name: str
    dots: Sequence[Dot]
    means: Sequence[tuple[int, float]]
    band: Sequence[tuple[float, float, float, float]] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line."""

    value: float
    label: str
    dash: str


@dataclass(frozen=True)
class Mark:
    """A d90, in its series' colour, with its interval or bracket: an end that is None is not bounded, and an arrow shows it."""

    d: int | None
    ends: tuple[int | None, int | None] | None
    label: str
    series: int


def draw(
    title: Sequence[str], look: Look, limits: tuple[int, int], series: Sequence[Trials],
    levels: Sequence[Level], marks: Sequence[Mark], prefix: str,
) -> str:  # fmt: skip
    """The SVG. `limits` of d are used where there is no dot; `prefix` keeps the ids of a page's figures apart."""
    from matplotlib.ticker import FuncFormatter

    with own_style():
        handles, labels = _legend(look, series, levels, marks)
        rows = -(-len(labels) // 2)
        columns = 2 if len(max(labels[:rows], key=len)) + len(max(labels[rows:], key=len)) <= WIDEST else 1
        rows = rows if columns == 2 else len(labels)
        figure, axes = new_axes(3.95 + 0.19 * rows, len(title))  # the legend takes nothing from the plot
        ds = [dot.d for one in series for dot in one.dots] or list(limits)
        ds += [d for mark in marks for d in (mark.d, *(mark.ends or ())) if d]  # d90 may lie outside what was tried
        low, high = min(ds) / 1.25, max(ds) * 1.25
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        log_ticks(axes.xaxis, lambda d: f"{d / 1e6:g} M" if d >= 1e6 else f"{d:,.0f}")
        values = [dot.value for one in series for dot in one.dots] + [level.value for level in levels]
        room = (max(values) - min(values) or 1) * 0.08
        axes.set_ylim(min(values) - room, max(values) + room)
        if look.percent:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g} %"))
        axes.set_xlabel("d, numbers trained (log scale)")
        axes.set_ylabel(look.label)
        for level in levels:
            axes.axhline(level.value, color=INK, lw=1.2, ls=level.dash, zorder=1.5)
        for mark in marks:
            _draw_mark(axes, mark, (low, high))
        hover = {key: text for i, one in enumerate(series) for key, text in _draw_series(axes, look, one, i).items()}
        figure.legend(
            handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5, columnspacing=1.5
        )
        text = rendered(figure)
    return for_page(text, title, hover, prefix)


def _draw_mark(axes: Any, mark: Mark, limits: tuple[float, float]) -> None:
    """A line at d90 and its interval; an end that no trial bounds goes on to the figure's side, with an arrow."""
    colour = _colour(mark.series)
    if mark.ends is not None and mark.ends != (None, None):
        low, high = mark.ends
        left, right = (limits[0] if low is None else low), (limits[1] if high is None else high)
        if left < right:
            axes.axvspan(left, right, color=colour, alpha=0.15, lw=0)
        for name, end, tip, tail in (("below", low, limits[0], right), ("above", high, limits[1], left)):
            if end is None:
                start = (max(limits[0], min(tail, limits[1])), 0.06)
                arrow = {"arrowstyle": "->", "color": colour, "lw": 1.3}
                drawn = axes.annotate("", (tip, 0.06), start, xycoords=axes.get_xaxis_transform(), arrowprops=arrow)
                assert drawn.arrow_patch is not None
                drawn.arrow_patch.set_gid(f"open{name}")
    if mark.d is not None:
        axes.axvline(mark.d, color=colour, lw=1.1, ls="-.", zorder=1.6, gid=f"mark{mark.series}")


def _draw_series(axes: Any, look: Look, series: Trials, index: int) -> dict[str, list[str]]:
    """Draw one method; returns what each group of dots tells the pointer."""
    colour = _colour(index)
    if series.band:
        ds, means, lows, highs = zip(*series.band, strict=True)
        axes.fill_between(ds, lows, highs, color=colour, alpha=0.16, lw=0)
        axes.plot(ds, means, color=colour, lw=1.4, alpha=0.8, ls=_dash(index))
    elif len(series.means) > 1:
        axes.plot(*zip(*series.means, strict=True), color=colour, lw=1.4, alpha=0.6, ls=_dash(index))
    hover = {}
    for kind in KINDS:
        dots = [dot for dot in series.dots if dot.kind == kind]
        if dots:
            xs, ys, gid = [dot.d for dot in dots], [dot.value for dot in dots], f"dots{index}{kind}"
            fill = colour if kind == "trial" else "none"
            axes.scatter(
                xs, ys, marker=_marker(kind, look.up(kind)), s=_SIZE[kind] ** 2, facecolors=fill, edgecolors=colour,
                linewidths=1.7 if kind in ("bound", "below") else 1.3, alpha=0.9, zorder=3, gid=gid,
            )  # fmt: skip
            hover[gid] = [dot.hover for dot in dots]
    return hover


_SIZE = {
    "trial": 5.5,
    "bound": 24.0,
    "below": 24.0,
    "diverged": 8.5,
}  # in points; an arrow stands on its score and is half as tall


def _marker(kind: str, up: bool, centred: bool = False) -> Any:
    from matplotlib.path import Path

    if kind not in ("bound", "below"):
        return "o" if kind == "trial" else "X"
    low, high = (-0.5, 0.5) if centred else (0, 1)
    way = 1 if up else -1
    foot, stem = [(-0.3, way * low), (0.3, way * low)], [(0, way * low), (0, way * high)]
    head = [(-0.3, way * (high - 0.35)), (0, way * high), (0.3, way * (high - 0.35))]
    return Path([*foot, *stem, *head], [Path.MOVETO, Path.LINETO] * 2 + [Path.MOVETO, Path.LINETO, Path.LINETO])


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dash(index: int) -> Any:
    return ("-", (0, (5, 2)), (0, (1, 1.5)))[index // len(COLOURS) % 3]  # a seventh method has other dashes


def _legend(
    look: Look, series: Sequence[Trials], levels: Sequence[Level], marks: Sequence[Mark]
) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    alone = len(series) == 1
    seen = [kind for kind in KINDS if any(dot.kind == kind for one in series for dot in one.dots)]
    entries: list[tuple[Any, str]] = []
    if not alone:
        for i, one in enumerate(series):
            entries.append((Line2D([], [], color=_colour(i), marker="o", ms=5, ls=_dash(i)), one.name))
    for kind in seen:
        colour = _colour(0) if alone else INK
        fill = colour if kind == "trial" else "none"
        size = _SIZE[kind] / (2.4 if kind in ("bound", "below") else 1)
        shape = {
            "marker": _marker(kind, look.up(kind), centred=True),
            "ms": size,
            "mfc": fill,
            "mec": colour,
            "mew": 1.3,
            "ls": "none",
        }
        entries.append((Line2D([], [], **shape), look.named(kind)))
    if alone and series[0].band:
        line = Line2D([], [], color=_colour(0), lw=1.4, alpha=0.8)
        entries.append((line, "fit of the mean over seeds, with its band"))
    elif alone and len(series[0].means) > 1:
        entries.append((Line2D([], [], color=_colour(0), lw=1.4, alpha=0.6), "mean of the trials run to their end"))
    entries += [(Line2D([], [], color=INK, lw=1.2, ls=level.dash), level.label) for level in levels if level.label]
    entries += [(Line2D([], [], color=_colour(mark.series), lw=1.1, ls="-."), mark.label) for mark in marks]
    # legend texts hold method names: no mathematics, and no letter that the measuring font lacks
    safe = [label.encode("latin-1", "replace").decode("latin-1").replace("$", r"\$") for _, label in entries]
    return [handle for handle, _ in entries], safe
