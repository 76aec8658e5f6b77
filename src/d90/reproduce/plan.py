"""What a recipe is: studies, each a command with its options and the published figures to stand beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from d90.reproduce.schema import Arguments, Command

__all__ = ["Plan", "Published", "Study", "slug"]


@dataclass(frozen=True)
class Published:
    """A figure of a paper.

    Attributes:
        value: a number in the unit the paper prints (90.2, not 0.902, for percent), or a statement in words.
        source: paper, table or figure, and on what it was measured where that is not what is measured here.
        of: which of the study's figures it stands beside; "" for the study's main one.
        keys: which of several, as {"method": ..., "n": ...}.
    """

    value: float | str
    source: str
    of: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One command.

    Attributes:
        arguments: what its function takes, by parameter.
        line: the command line that does the same, without 'd90'.
    """

    name: str
    command: Command
    arguments: Arguments
    published: tuple[Published, ...]

    @property
    def line(self) -> list[str]:
        """The command line that does the same, without 'd90'."""
        return self.command.line(self.arguments)


@dataclass(frozen=True)
class Plan:
    """A recipe, read and checked; `differs` says where it is not what the paper did."""

    path: Path
    title: str
    paper: str
    differs: tuple[str, ...]
    studies: tuple[Study, ...]
    folder: Path


def slug(name: str) -> str:
    """A study's name as a file's: letters, digits and dashes."""
    words = "".join(letter if letter.isalnum() and letter.isascii() else " " for letter in name.lower()).split()
    return "-".join(words) or "study"
