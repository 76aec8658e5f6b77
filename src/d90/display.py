"""How a result shows itself: `plot()` gives its figure, and in a notebook it stands as its answer, its table and that figure.

A class derives from `Display`; what is drawn of it is registered for its type with `drawn`, what is written with `told`. Those of the
results of studies stand in `d90.report.display`, far above them, which is imported when the first of them is to be shown.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from functools import singledispatch
from importlib import import_module
from pathlib import Path
from typing import Any

from d90.errors import InputError
from d90.files import write_text

__all__ = ["Display", "Drawing", "drawn", "told"]

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


@singledispatch
def drawn(result: Any) -> list[str]:
    """The figures of a result, the first that of `plot()`; none where there is nothing to draw."""
    return []


@singledispatch
def told(result: Any) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """What is said of a result: sentences, the first the answer; and a table, its head first, which may be empty."""
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
        import_module("d90.report.display")  # registers what it draws; nothing of a result rests on it
        return drawn(self)

    def _repr_html_(self) -> str:
        figures = self._figures()
        sentences, table = told(self)
        parts = [
            f"<p>{'<b>' if not i else ''}{html.escape(one)}{'</b>' if not i else ''}</p>"
            for i, one in enumerate(sentences)
        ]
        if table:
            head, *rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in table]
            body = "".join(f"<tr>{row}</tr>" for row in rows)
            parts.append(f"<div><table><tr>{head.replace('td>', 'th>')}</tr>{body}</table></div>")
        return f'<div class="d90">{STYLE}{"".join([*parts, *figures])}</div>'
