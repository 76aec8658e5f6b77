"""Rows of instruction data as conversations, each one canonical JSON string.

Formats are recognised by their columns: `messages` (role, content), ShareGPT's `conversations` (from, value), `prompt` and
`completion` (strings, or lists of messages), alpaca's `instruction`, `input` and `output`. Strings are text to be continued, as in
trl; alpaca's are turns of a conversation, and so are strings where the user gives a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from d90.errors import InputError, quoted
from d90.tasks.columns import Columns, Table
from d90.tasks.readers.lines import Row

__all__ = ["Conversation", "Message", "find_format", "read_conversations"]

_FORMATS = (("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"))
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
_KNOWN = ("system", "developer", "user", "assistant")
_TOOLS = ("tool", "function", "ipython", "observation", "function_call")
_EXPECTED = "messages, conversations, prompt and completion, or instruction and output (others are named with --prompt and --completion)"


class Message(NamedTuple):
    """One turn."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns, or a text to be continued.

    Attributes:
        messages: the turns; of plain text the prompt and its completion.
        first: of which turn on answers count.
        plain: no chat template is asked: the completion stands right behind the prompt.
    """

    messages: tuple[Message, ...]
    first: int = 0
    plain: bool = False

    def to_json(self) -> str:
        """The one string that equal conversations share."""
        first = {"first": self.first} if self.first else {}
        plain = {"plain": True} if self.plain else {}
        value = {"messages": [list(message) for message in self.messages], **first, **plain}
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """From `to_json`."""
        value = json.loads(text)
        messages = tuple(Message(*message) for message in value["messages"])
        return cls(messages, value.get("first", 0), value.get("plain", False))

    @property
    def prompt(self) -> str:
        """The one string that conversations share that are equal up to their last answer."""
        return json.dumps([self.messages[: self.answers[-1]], self.plain], ensure_ascii=False, separators=(",", ":"))

    @property
    def answers(self) -> list[int]:
        """The numbers of the turns that are to be learnt."""
        return [i for i, one in enumerate(self.messages) if i >= self.first and one.role == "assistant"]


def find_format(row: Row, columns: Columns) -> tuple[str, ...] | None:
    """The columns that hold the conversation of a table whose first row is `row`; None where it has none."""
    if columns.prompt or columns.completion:
        return (columns.prompt or "prompt", columns.completion or "completion")
    return next((names for names in _FORMATS if all(name in row for name in names)), None)


def read_conversations(table: Table, columns: Columns) -> list[Conversation]:
    """Each row's conversation.

    Raises:
        InputError: what is wrong in which row.
    """
    names = find_format(table.rows[0], columns)
    shown = ", ".join(quoted(name)[1:-1] for name in list(table.rows[0])[:20])
    if names is None:
        raise InputError(f"{table.where}: it has {shown}, expected the columns of a conversation: {_EXPECTED}")
    missing = next((name for name in names if name not in table.rows[0]), None)
    if missing is not None:
        raise InputError(
            f"{table.where}: no column {quoted(missing)}; it has {shown}. Name it with --prompt or --completion"
        )
    found = []
    for i, row in enumerate(table.rows):
        lacking = next((name for name in names if row.get(name) is None), None)
        if lacking is not None:
            other = find_format({key: value for key, value in row.items() if value is not None}, columns)
            mixed = f", and is of another format ({', '.join(other)})" if other and other != names else ""
            raise InputError(
                f"{table.spot(i)}: no {quoted(lacking)}{mixed}; expected {', '.join(names)} in every row, as in the first"
            )
        found.append(_conversation(row, names, columns.chat_template is not None, table.spot(i)))
    return found


def _conversation(row: Row, names: tuple[str, ...], chat: bool, spot: str) -> Conversation:
    if row.get("tools"):
        raise InputError(
            f"{spot}: it offers tools, which d90 does not render; expected plain turns. Leave such rows out"
        )
    if len(names) == 1:
        turns = _messages(row[names[0]], spot, names[0])
        found = Conversation(tuple(_system(row) + turns if not turns or turns[0].role != "system" else turns))
    else:
        found = _pair(row, names, chat, spot)
    _check(found, spot)
    return found


def _pair(row: Row, names: tuple[str, ...], chat: bool, spot: str) -> Conversation:
    """A prompt and its completion, each a string or messages."""
    values = [_parsed(row[name]) for name in names]
    lists = [isinstance(value, list | tuple) for value in values]
    for value, name, listed in zip(values, names, lists, strict=True):
        if not listed and not isinstance(value, str | int | float):
            raise InputError(
                f"{spot}: column {quoted(name)} holds a {type(value).__name__}, expected a text or messages"
            )
    plain = not any(lists) and names != ("instruction", "output") and not chat
    sides = [
        _messages(value, spot, name) if listed else [Message(role, str(value))]
        for value, name, listed, role in zip(values, names, lists, ("user", "assistant"), strict=True)
    ]
    if names == ("instruction", "output"):
        more = row.get("input")
        if more is not None and str(more).strip():
            sides[0] = [Message("user", f"{sides[0][0].content}\n\n{more}")]
    before = sides[0] if plain or sides[0][0].role == "system" else _system(row) + sides[0]
    return Conversation((*before, *sides[1]), first=len(before), plain=plain)


def _system(row: Row) -> list[Message]:
    """The system prompt that stands in a column of its own."""
    value = row.get("system")
    return [Message("system", value)] if isinstance(value, str) and value.strip() else []


def _parsed(value: Any) -> Any:
    """Messages that a CSV file holds as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else value
    return value


def _messages(value: Any, spot: str, name: str) -> list[Message]:
    value = _parsed(value)
    if not isinstance(value, list | tuple) or not value:
        got = f"a {type(value).__name__}" if not isinstance(value, list | tuple) else "no turn"
        raise InputError(
            f"{spot}: column {quoted(name)} holds {got}, expected a list of turns, each with role and content"
        )
    return [_message(one, spot, number) for number, one in enumerate(value, start=1)]


def _message(one: Any, spot: str, number: int) -> Message:
    where = f"{spot}: turn {number}"
    if not isinstance(one, Mapping):
        raise InputError(f"{where} is a {type(one).__name__}, expected an object with role and content")
    role, content = (
        one.get(a) if one.get(a) is not None else one.get(b) for a, b in (("role", "from"), ("content", "value"))
    )
    if one.get("tool_calls") or one.get("function_call") or role in _TOOLS:
        raise InputError(
            f"{where} calls a tool or answers for one, which d90 does not render; expected plain turns. Leave it out"
        )
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    if role not in _KNOWN:
        raise InputError(
            f"{where} has the role {quoted(str(role))}, expected one of {', '.join(_KNOWN)} (or human and gpt)"
        )
    if isinstance(content, list | tuple):  # parts, as of models that take images
        other = next((p for p in content if not isinstance(p, Mapping) or not isinstance(p.get("text"), str)), None)
        if other is not None:
            kind = other.get("type") if isinstance(other, Mapping) else type(other).__name__
            raise InputError(f"{where} holds a part of type {quoted(str(kind))}, expected text alone")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        got = "no content" if content is None else f"a {type(content).__name__} as its content"
        raise InputError(f"{where} has {got}, expected a text")
    return Message(role, content)


def _check(found: Conversation, spot: str) -> None:
    if not found.answers:
        raise InputError(f"{spot}: no assistant turn, expected at least one answer to learn; drop the row")
    empty = next((i for i in found.answers if not found.messages[i].content.strip()), None)
    if empty is not None:
        raise InputError(f"{spot}: the answer (turn {empty + 1}) is empty, expected a text; drop the row")
    _check_characters(found.messages, spot)


def _check_characters(messages: Sequence[Message], spot: str) -> None:
    for number, message in enumerate(messages, start=1):
        try:
            message.content.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{spot}: half a surrogate pair at character {error.start} of turn {number}, expected whole characters. "
                "Likely cause: a text cut inside an escape such as \\ud83d\\ude00; cut it elsewhere"
            ) from None
