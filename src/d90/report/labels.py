"""Names beside the dots of a figure, where they lie on no other name and on no dot."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from d90.report.svg import INK, stand_in

__all__ = ["name_points"]

SIZE = 8.5
LETTER = 0.58  # a letter's width over its height, as wide as any page's font has it
DOT = 5.0  # points around a dot that a name keeps clear of
RISES = tuple(
    rise for n in range(14) for rise in (8 + 12 * n, -16 - 12 * n)
)  # of a name over its dot, the nearest first

Box = tuple[float, float, float, float]


def name_points(figure: Any, axes: Any, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Put each name near its point: stand-ins for `put_labels`, which know how much room the names take.

    A name that finds its place further away is joined to its dot by a line.
    """
    figure.draw_without_rendering()  # settles the layout, which the names do not change
    scale = 72 / figure.dpi
    places = [tuple(scale * value for value in axes.transData.transform(point)) for point in points]
    frame = tuple(scale * value for value in axes.get_window_extent().extents)
    dots: list[Box] = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in places]
    taken: list[Box] = []
    for i, (point, place, name) in enumerate(zip(points, places, names, strict=True)):
        shift, box = _place(place, LETTER * SIZE * len(name), frame, [*taken, *(dots[:i] + dots[i + 1 :])])
        taken.append(box)
        arrow = {"arrowprops": {"arrowstyle": "-", "color": INK, "lw": 0.6, "alpha": 0.6}} if abs(shift[1]) > 16 else {}
        drawn = axes.annotate(
            stand_in(i, name), point, xytext=shift, textcoords="offset points", ha="center", fontsize=SIZE, **arrow
        )
        drawn.set_in_layout(False)


def _place(
    place: Sequence[float], width: float, frame: Sequence[float], taken: Sequence[Box]
) -> tuple[tuple[float, float], Box]:
    """(offset of the text's middle and foot from the point, its box): the nearest place that is free, the first where none is."""
    tried = []
    for rise, side in itertools.product(RISES, (0.0, 0.5, -0.5)):
        x, y = place[0] + side * width, place[1] + rise
        x = min(max(x, frame[0] + width / 2), max(frame[2] - width / 2, frame[0] + width / 2))
        box = (x - width / 2, y - 2, x + width / 2, y + SIZE)
        tried.append(((x - place[0], float(rise)), box))
        if frame[1] < box[1] and box[3] < frame[3] and not any(_meet(box, other) for other in taken):
            return tried[-1]
    return tried[0]


def _meet(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
