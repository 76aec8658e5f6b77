"""How pages are made: one jinja2 environment, strict about names, with numbers in words."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d90.files import write_text
from d90.report.words import count, difference, score, seconds
from d90.tasks.metrics import to_display

if TYPE_CHECKING:
    import jinja2

__all__ = ["render", "write_page"]


def render(template: str, *, index: str = "", **given: Any) -> str:
    """A page's text from its template in this folder; equal values give equal bytes.

    Args:
        index: the file that lists everything in the store, which the page links back to; "" where there is none.
        given: what the template reads.
    """
    return environment().get_template(template).render(index=index, **given)


def write_page(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a page to its file, whole or not at all."""
    return write_text(path, text)


@functools.cache
def environment() -> jinja2.Environment:
    """Escapes everything, refuses a name it does not know."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("d90.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(count=count, difference=difference, score=score, seconds=seconds, to_display=to_display)
    return made
