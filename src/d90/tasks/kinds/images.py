"""One class an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from d90.errors import InputError
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Reading
from d90.tasks.kinds.classification import Classification

__all__ = ["Images"]


@dataclass(frozen=True)
class Images(Classification):
    """One of several classes for an image; stored as a classification, as results before the kinds were."""

    name: ClassVar[str] = "images"
    summary: ClassVar[str] = "one class for an image, from idx files"
    takes: ClassVar[str] = "images"
    auto_class: ClassVar[str | None] = None

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """No table of texts."""
        return False

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Images come from idx files alone.

        Raises:
            InputError: always.
        """
        raise InputError("got kind 'images' for a table, expected idx:FOLDER with MNIST-style files")
