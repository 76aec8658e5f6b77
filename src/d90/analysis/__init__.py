"""Pure functions of numbers and tensors: what can be guaranteed of a tune, and its real length in bits."""

from __future__ import annotations

from d90.analysis import bounds, coding

__all__ = ["bounds", "coding"]
