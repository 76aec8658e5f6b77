"""Kinds of task, a file each; `register_kind` and the entry points `d90.kinds` add more."""

from __future__ import annotations

from importlib.metadata import entry_points

from d90.errors import InputError, unknown_name
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds.base import Reading, TaskKind
from d90.tasks.kinds.classification import Classification
from d90.tasks.kinds.images import Images
from d90.tasks.kinds.language import ABSENT, Language
from d90.tasks.kinds.regression import Regression

__all__ = [
    "ABSENT",
    "Classification",
    "Images",
    "Language",
    "Reading",
    "Regression",
    "TaskKind",
    "choose_kind",
    "find_kind",
    "kind_names",
    "register_kind",
    "stored_kind",
]

_KINDS: dict[str, type[TaskKind]] = {}
_ENTRY_POINTS_READ = False


def register_kind(kind: type[TaskKind]) -> type[TaskKind]:
    """Add a kind of task under its name; usable as a class decorator.

    Example:
        >>> @register_kind
        ... @dataclass(frozen=True)
        ... class Ranking(TaskKind): ...

    Raises:
        InputError: another kind has the name.
    """
    known = _KINDS.get(kind.name)
    if known is not None and known is not kind:
        raise InputError(
            f"a kind of task called '{kind.name}' is there already ({known.__module__}); choose another name"
        )
    if "stored" not in vars(kind) and not hasattr(kind, "stored"):
        kind.stored = kind.name
    _KINDS[kind.name] = kind
    return kind


for _kind in (Classification, Regression, Language, Images):
    register_kind(_kind)


def _all() -> dict[str, type[TaskKind]]:
    global _ENTRY_POINTS_READ
    if not _ENTRY_POINTS_READ:
        _ENTRY_POINTS_READ = True
        for point in entry_points(group="d90.kinds"):
            register_kind(point.load())
    return _KINDS


def kind_names() -> list[str]:
    """The names of all kinds, those of other packages included."""
    return list(_all())


def find_kind(name: str) -> type[TaskKind]:
    """A kind by its name.

    Raises:
        InputError: no such kind.
    """
    known = _all()
    if name not in known:
        raise unknown_name("kind of task", name, known)
    return known[name]


def stored_kind(word: str, images: bool, labels: tuple[str, ...]) -> TaskKind:
    """The kind that a file's word stands for; `images` tells images from texts where both are stored under one word."""
    for kind in _all().values():
        if kind.stored == word and (kind.takes == "images") == images:
            return kind(labels)
    return find_kind(word)(labels)


def choose_kind(table: Table, columns: Columns) -> type[TaskKind]:
    """The one kind that a training table looks like.

    Raises:
        InputError: none, or several.
    """
    found = [kind for kind in _all().values() if kind.recognises(table, columns)]
    if len(found) > 1:
        names = " and ".join(kind.name for kind in found)
        raise InputError(f"{table.where}: it looks like {names}; say which with --kind")
    if not found:
        columns.text_names(table)  # says what is missing
        raise InputError(f"{table.where}: no kind of task fits; expected one of {', '.join(_all())}, named with --kind")
    return found[0]
