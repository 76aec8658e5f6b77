"""Images: one class, or one number, for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from d90.errors import InputError
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Reading
from d90.tasks.kinds.classification import Classification
from d90.tasks.kinds.regression import Regression

__all__ = ["ImageValues", "Images"]


class _FromPixels:
    """What kinds of images share: networks from scratch, and no table of texts that holds them."""

    name: ClassVar[str]
    takes: ClassVar[str] = "images"
    from_scratch: ClassVar[bool] = True
    auto_class: ClassVar[str | None] = None
    hub_task: ClassVar[str | None] = None
    peft_task: ClassVar[str | None] = None
    expected: ClassVar[str]  # in place of a table

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """No table of texts."""
        return False

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """No table holds images.

        Raises:
            InputError: always.
        """
        raise InputError(f"got kind '{cls.name}' for a table, expected {cls.expected}")


@dataclass(frozen=True)
class Images(_FromPixels, Classification):
    """One of several classes for an image; stored as a classification, as results before the kinds were."""

    name: ClassVar[str] = "images"
    summary: ClassVar[str] = "one class for an image, from idx files"
    expected: ClassVar[str] = "idx:FOLDER with MNIST-style files"


@dataclass(frozen=True)
class ImageValues(_FromPixels, Regression):
    """A number for an image; stored as a regression."""

    name: ClassVar[str] = "image-values"
    summary: ClassVar[str] = "one number for an image, of a task made in Python"
    expected: ClassVar[str] = "a d90.Task with images and numbers, made in Python"
