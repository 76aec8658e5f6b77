"""How pages are made: one jinja2 environment, strict about names, with numbers in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from d90.report.words import count, difference, score, seconds
from d90.tasks.metrics import to_display

if TYPE_CHECKING:
    import jinja2

__all__ = ["environment"]


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
