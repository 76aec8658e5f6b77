"""A learning rate as a user gives it."""

from __future__ import annotations

import math

from d90.errors import InputError

__all__ = ["AUTO", "DEFAULT", "USUAL", "parse_rate"]

AUTO, DEFAULT, USUAL = "auto", "default", "usual"


def parse_rate(text: str | float | None, usual: float | str | None = None) -> float | str | None:
    """A rate as a user gives it: a number, "auto" (found by short runs), "default" (None, the default of the method and kind of
    model), or "usual", for which the study's own `usual` stands.

    Raises:
        InputError: anything else.
    """
    if text == USUAL:
        text = usual
    if text is None or text == DEFAULT:
        return None
    if text == AUTO:
        return AUTO
    try:
        rate = float(text)
    except (TypeError, ValueError):
        rate = math.nan
    if isinstance(text, bool) or not (rate > 0 and math.isfinite(rate)):
        raise InputError(f"got learning rate '{text}', expected a positive number such as 1e-3, auto or default")
    return rate
