"""Which columns hold the texts and the label, and the texts they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d90.errors import InputError, quoted
from d90.tasks.readers import Row
from d90.tasks.split import Sources

__all__ = ["Columns", "Table", "check_text"]

TEXTS = (
    ("text",),
    ("text_a", "text_b"),
    ("sentence",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
LOSS_ON = ("completions", "all")
MAX_SHOWN = 20  # columns in an error


@dataclass(frozen=True)
class Table:
    """The rows of one split.

    Attributes:
        rows: a dictionary each, by column.
        where: the file or dataset they come from, as an error names it.
        places: where each stands ("line 3"); its number by default.
        typed: whether numbers and texts differ in it, as in JSON; not in CSV.
        folder: where the paths in it begin; None where they begin where d90 runs.
    """

    rows: Sequence[Row]
    where: str
    places: Sequence[str] | None = None
    typed: bool = True
    folder: Path | None = None

    def spot(self, index: int) -> str:
        """A row, as an error names it."""
        return f"{self.where}, {self.place(index)}"

    def place(self, index: int) -> str:
        """Where in the table a row stands."""
        return f"row {index + 1}" if self.places is None else self.places[index]


class Columns:
    """Which columns hold the texts and the label; None: found by their usual names.

    Args:
        text: the text column, or two joined by a comma.
        label: the label column.
        prompt, completion: the columns of instruction data.
        chat_template: a file with a chat template in place of the tokenizer's own.
        loss_on: "completions", the answers alone, or "all".
        group: the column whose equal values are of one independent example together.

    Raises:
        InputError: more than two text columns, or another word for what counts.
    """

    def __init__(
        self,
        text: str | None = None,
        label: str | None = None,
        prompt: str | None = None,
        completion: str | None = None,
        chat_template: str | None = None,
        loss_on: str | None = None,
        group: str | None = None,
    ) -> None:
        self.group = group
        self.prompt, self.completion, self.chat_template, self.loss_on = prompt, completion, chat_template, loss_on
        if loss_on not in (None, *LOSS_ON):
            raise InputError(f"got loss_on '{loss_on}', expected {' or '.join(LOSS_ON)}")
        self.text = tuple(part.strip() for part in text.split(",")) if text else None
        self.given_label = label
        self.label = label or "label"
        if self.text and len(self.text) > 2:
            raise InputError(f"got {len(self.text)} text columns ('{text}'), expected one, or two joined by a comma")

    def sources(self, table: Table, examples: int) -> Sources | None:
        """What each example was drawn with, as the column `group` has it; None where none was named.

        Args:
            examples: how many the kind of task read from the table.

        Raises:
            InputError: no such column, a row without a value, or examples that are no rows.
        """
        if self.group is None:
            return None
        if self.group not in table.rows[0]:
            shown = ", ".join(quoted(name)[1:-1] for name in list(table.rows[0])[:MAX_SHOWN])
            raise InputError(f"{table.where}: no column {quoted(self.group)}; it has {shown}. Name one with --group")
        if examples != len(table.rows):
            raise InputError(
                f"{table.where}: {len(table.rows)} rows give {examples} examples, expected one a row for --group"
            )
        values = [row.get(self.group) for row in table.rows]
        empty = next((i for i, value in enumerate(values) if value is None or value == ""), None)
        if empty is not None:
            raise InputError(
                f"{table.spot(empty)}: nothing in column {quoted(self.group)}, expected what the row was drawn with"
            )
        return Sources(tuple(map(str, values)), f"values of {quoted(self.group)}")

    @property
    def conversation(self) -> dict[str, str | None]:
        """What instruction data alone has, by its name in `d90.tasks.load`."""
        return {
            "prompt": self.prompt, "completion": self.completion, "chat_template": self.chat_template, "loss_on": self.loss_on,
        }  # fmt: skip

    def find(self, row: Row) -> tuple[str, ...] | None:
        """The names of the text columns of a table whose first row is `row`; None where it lacks them."""
        wanted = [self.text] if self.text else sorted(TEXTS, key=len, reverse=True)
        return next((names for names in wanted if all(name in row for name in names)), None)

    def text_names(self, table: Table, labelled: bool = True) -> tuple[str, ...]:
        """The text columns of a table.

        Args:
            table: its first row decides.
            labelled: whether the label column must be there as well.

        Raises:
            InputError: what is missing, texts and label together.
        """
        row = table.rows[0]
        found = self.find(row)
        missing, advice = [], []
        if found is None:
            missing.append(f"no column '{','.join(self.text) if self.text else 'text or text_a,text_b'}'")
            advice.append("Name one or two with --text a[,b]")
        if labelled and self.label not in row:
            missing.append(f"no label column '{self.label}'")
            advice.append("Name it with --label")
        if found is None or missing:
            shown = [quoted(name)[1:-1] for name in list(row)[:MAX_SHOWN]]
            more = f" and {len(row) - MAX_SHOWN} more" if len(row) > MAX_SHOWN else ""
            end = "Name them with --text a[,b] and --label" if len(missing) == 2 else advice[0]
            if found and not self.given_label:
                end += ", or take the texts as documents of a language model with --kind language"
            raise InputError(f"{table.where}: {' and '.join(missing)}; it has {', '.join(shown)}{more}. {end}")
        return found

    def texts(self, table: Table, labelled: bool = True) -> list[tuple[str, ...]]:
        """Each row's one or two texts.

        Raises:
            InputError: a column that is missing, or a row without a text, with its place.
        """
        names = self.text_names(table, labelled)
        return [
            tuple(check_text(row.get(key), key, table.spot(i)) for key in names) for i, row in enumerate(table.rows)
        ]


def check_text(value: Any, key: str, spot: str) -> str:
    """A cell as text.

    Args:
        key: its column.
        spot: its row, as an error names it.

    Raises:
        InputError: nothing there, a list, bytes that are not UTF-8, or half a character.
    """
    if isinstance(value, str) and value.isascii():
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{spot}: column {quoted(key)} holds bytes that are not UTF-8 (byte {error.start}); expected a text"
            ) from None
    if value is None:
        raise InputError(f"{spot}: no text in column {quoted(key)}; every example needs one")
    if not isinstance(value, str):
        if isinstance(value, list | dict):
            got = type(value).__name__
            raise InputError(f"{spot}: column {quoted(key)} holds a {got}, expected a text; name another with --text")
        return str(value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{spot}: half a surrogate pair at character {error.start} of column {quoted(key)}, expected whole "
            "characters. Likely cause: a text cut inside an escape such as \\ud83d\\ude00; cut it elsewhere"
        ) from None
    return value
