"""How a result shows itself: `plot()` gives its figure, and in a notebook it stands as its answer, its table and that figure.

A class derives from `Display`; its figures are registered for its type with `figures_of`, its sentences and table with `text_of`. Those
of the results of studies stand in `d90.report.display`, far above: `d90` itself names it with `before_showing`.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeAlias

from d90.errors import InputError
from d90.files import write_text

__all__ = ["Display", "Drawing", "Text", "before_showing", "figures_of", "text_of"]

Text: TypeAlias = tuple[
    Sequence[str], Sequence[Sequence[str]]
]  # sentences, the first the answer; a table, its head first

STYLE = (
    "<style>.d90{max-width:46rem;overflow-wrap:anywhere}.d90 svg{width:100%;height:auto}"
    ".d90 td,.d90 th{text-align:right;padding:.1rem .6rem .1rem 0}.d90 td:first-child,.d90 th:first-child{text-align:left}"
    ".d90 p{margin:.3rem 0}.d90>div{overflow-x:auto}</style>"
)


class Drawing(str):
    """An SVG, whole in itself: shown in a notebook, and written by `save`."""

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file."""
        return write_text(path, self)


_loads: list[Callable[[], object]] = []


def before_showing(load: Callable[[], object]) -> None:
    """Have `load` called before a result is shown: it imports a module that registers figures and texts."""
    _loads.append(load)


@singledispatch
def figures_of(result: Any) -> list[str]:
    """The figures of a result, the first that of `plot()`; none where there is nothing to draw."""
    return []


@singledispatch
def text_of(result: Any) -> Text:
    """A result in sentences, the first the answer, and a table, its head first, which may be empty."""
    return [str(result)], []


class Display:
    """Shows itself in a notebook, and draws itself."""

    def plot(self) -> Drawing:
        """The figure as on the page; shown by itself in a notebook, `save(path)` writes it.

        Raises:
            InputError: there is nothing to draw.
        """
        figures = self._figures()
        if not figures:
            raise InputError(f"this {type(self).__name__} holds nothing to draw; print it to see what it holds")
        return Drawing(figures[0])

    def _figures(self) -> list[str]:
        for load in _loads:
            load()
        return figures_of(self)

    def _repr_html_(self) -> str:
        figures = self._figures()
        sentences, table = text_of(self)
        parts = [
            f"<p>{'<b>' if not i else ''}{html.escape(one)}{'</b>' if not i else ''}</p>"
            for i, one in enumerate(sentences)
        ]
        if table:
            head, *rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table]
            body = "".join(f"<tr>{row}</tr>" for row in rows)
            parts.append(f"<div><table><tr>{head.replace('td>', 'th>')}</tr>{body}</table></div>")
        return f'<div class="d90">{STYLE}{"".join([*parts, *figures])}</div>'
