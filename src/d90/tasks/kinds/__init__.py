"""Kinds of task, a file each; `register_kind` and the entry points `d90.kinds` add more."""

from __future__ import annotations

from inspect import isabstract

from d90.errors import InputError
from d90.registry import Registry
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Reading, TaskKind
from d90.tasks.kinds.choices import Choices
from d90.tasks.kinds.classification import Classification
from d90.tasks.kinds.embeddings import Embeddings
from d90.tasks.kinds.images import Images, ImageValues
from d90.tasks.kinds.instruction import Instruction
from d90.tasks.kinds.language import ABSENT, Language
from d90.tasks.kinds.masked import Masked
from d90.tasks.kinds.multilabel import MultiLabel
from d90.tasks.kinds.pictures import Pictures
from d90.tasks.kinds.questions import Answering
from d90.tasks.kinds.regression import Regression
from d90.tasks.kinds.seq2seq import Seq2Seq
from d90.tasks.kinds.tokens import Tokens

__all__ = [
    "ABSENT",
    "Answering",
    "Choices",
    "Classification",
    "Embeddings",
    "ImageValues",
    "Images",
    "Instruction",
    "Language",
    "Masked",
    "MultiLabel",
    "Pictures",
    "Reading",
    "Regression",
    "Seq2Seq",
    "TaskKind",
    "Tokens",
    "choose_kind",
    "find_kind",
    "kind_names",
    "register_kind",
    "stored_kind",
]


def _check(kind: type[TaskKind]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, TaskKind)) or isabstract(kind):
        raise InputError(
            f"got {kind!r} as a kind of task, expected a subclass of d90.tasks.TaskKind that leaves no method open"
        )
    if not hasattr(kind, "stored"):
        kind.stored = kind.name


KINDS: Registry[type[TaskKind]] = Registry(
    "kind of task",
    "d90.kinds",
    {
        kind.name: kind
        for kind in (
            Classification,
            Regression,
            Language,
            Images,
            ImageValues,
            Instruction,
            Tokens,
            Seq2Seq,
            Pictures,
            MultiLabel,
            Answering,
            Embeddings,
            Choices,
            Masked,
        )
    },
    check=_check,
)


def register_kind(kind: type[TaskKind]) -> type[TaskKind]:
    """Add a kind of task under its name; usable as a class decorator.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import ClassVar
        >>> from d90.tasks.kinds.classification import Classification
        >>> @d90.register_kind
        ... @dataclass(frozen=True)
        ... class Sentiment(Classification):
        ...     name: ClassVar[str] = "sentiment"

    Args:
        kind: a class derived from `TaskKind`.

    Raises:
        InputError: it leaves methods open, or another kind has the name.
    """
    KINDS.register(kind.name, kind)
    return kind


def kind_names() -> list[str]:
    """The names of all kinds, those of other packages included."""
    return list(KINDS)


def find_kind(name: str) -> type[TaskKind]:
    """A kind by its name.

    Raises:
        InputError: no such kind.
    """
    return KINDS.find(name)


def stored_kind(word: str, images: bool, labels: tuple[str, ...]) -> TaskKind:
    """The kind that a file's word stands for; `images` tells images from texts where both are stored under one word."""
    for kind in KINDS.values():
        if kind.stored == word and (kind.takes == "images") == images:
            return kind(labels)
    return find_kind(word)(labels)


def choose_kind(table: Table, columns: Columns) -> type[TaskKind]:
    """The one kind that a training table looks like.

    Raises:
        InputError: none, or several.
    """
    found, refused = [], []
    for kind in KINDS.values():
        try:
            if kind.recognises(table, columns):
                found.append(kind)
        except InputError as error:  # labels that are wrong for this kind may be right for another
            refused.append(error)
    if len(found) > 1:
        names = " and ".join(kind.name for kind in found)
        raise InputError(f"{table.where}: it looks like {names}; say which with --kind")
    if not found and refused:
        raise refused[0]
    if not found:
        columns.text_names(table)  # says what is missing
        raise InputError(f"{table.where}: no kind of task fits; expected one of {', '.join(KINDS)}, named with --kind")
    return found[0]
