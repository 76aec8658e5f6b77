"""Instruction data: conversations whose answers a causal language model learns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from d90.errors import InputError
from d90.tasks.columns import Columns, Table
from d90.tasks.conversations import Conversation, Message, find_format, read_conversations
from d90.tasks.kinds.base import Reading, TokenIds
from d90.tasks.kinds.language import Language, documents
from d90.tasks.rendering import Renderer, cut

__all__ = ["Instruction"]

MAX_TEMPLATE = 1 << 20  # bytes


@dataclass(frozen=True)
class Instruction(Language):
    """Each example is a conversation; the loss is the mean over conversations of each one's mean nats a token of its answers.

    Attributes:
        template: a chat template in place of the tokenizer's own.
        everything: whether prompts count as well as answers.
        plain: prompts are texts to be continued, without a chat template.
    """

    name: ClassVar[str] = "instruction"
    stored: ClassVar[str] = "instruction"
    summary: ClassVar[str] = "conversations, or prompts and completions: a causal language model learns the answers"

    template: str | None = None
    everything: bool = False
    plain: bool = False

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """The columns of a format, or an option that such data alone takes; and no label."""
        row = table.rows[0]
        if columns.given_label or columns.label in row or columns.text:
            return False
        return any(columns.conversation.values()) or find_format(row, columns) is not None

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Each row is a conversation, kept as one JSON string."""
        if columns.given_label or columns.text:
            option = "label" if columns.given_label else "text"
            raise InputError(
                f"got a {option} column for instruction data, expected none; leave --{option} out, or name --prompt and --completion"
            )
        kind = cls(template=_template(columns.chat_template), everything=columns.loss_on == "all")
        names = find_format(tables["train"].rows[0], columns) or ()
        splits = {}
        for part, table in tables.items():
            found = read_conversations(table, columns)
            splits[part] = documents([(one.to_json(),) for one in found])
            kind = replace(kind, plain=found[0].plain)
        counted = "all tokens count" if kind.everything else "answers alone count (--loss-on all counts prompts too)"
        notes = [f"{sum(map(len, splits.values())):,} conversations from {', '.join(names)}: {counted}"]
        notes += [] if given else ["kind: instruction, guessed from the columns; --kind names another"]
        return Reading(kind, splits, tuple(notes))

    @property
    def marks(self) -> str:
        """The chat template that was given, by its hash, and what counts."""
        template = (
            f"|template {hashlib.sha256(self.template.encode()).hexdigest()}" if self.template is not None else ""
        )
        return template + ("|all" if self.everything else "")

    @property
    def record(self) -> dict[str, Any]:
        """What was given otherwise than by default."""
        template = {} if self.template is None else {"chat_template": self.template}
        return template | ({"loss_on": "all"} if self.everything else {}) | ({"plain": True} if self.plain else {})

    def restored(self, record: Mapping[str, Any]) -> Instruction:
        """With the template and what counts."""
        template = record.get("chat_template")
        if template is not None and not isinstance(template, str):
            raise InputError(f"its task has chat_template={template!r:.60}, expected a text")
        return Instruction(self.labels, template, record.get("loss_on") == "all", record.get("plain") is True)

    def renderer(self, tokenizer: Any, split_special: bool, name: str) -> Renderer:
        """What renders conversations for a tokenizer."""
        return Renderer(tokenizer, self.template, split_special, name)

    def prompt(self, text: str) -> Conversation:
        """A question as the training data asks: a turn of its own, or a text to be continued."""
        turns = (Message("user", text), Message("assistant", ""))
        return Conversation(turns, first=1, plain=self.plain)

    def tokens(
        self, tokenizer: Any, inputs: Sequence[tuple[str, ...]], longest: int | None, split_special: bool, name: str
    ) -> TokenIds:
        """Conversations rendered, cut so that the last answer stays.

        Raises:
            InputError: what is wrong in which example (`d90.tasks.rendering`).
        """
        renderer = self.renderer(tokenizer, split_special, name)
        ids, scored, truncated = [], [], 0
        for number, (text,) in enumerate(inputs, start=1):
            whole = renderer.render(Conversation.from_json(text), number)
            kept = whole if longest is None else cut(whole, longest, number, name)
            truncated += len(kept.ids) < len(whole.ids)
            ids.append(kept.ids)
            scored.append([True] * len(kept.ids) if self.everything else kept.scored)
        return TokenIds(ids, scored, truncated)

    @property
    def cut(self) -> str:
        """The end of a conversation stays."""
        return "were cut at their beginning: the last answer stays, and loses its end only where it is longer itself"


def _template(path: str | None) -> str | None:
    """A chat template's text.

    Raises:
        InputError: no such file, or one that is no template.
    """
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise InputError(f"no such file: '{path}'; expected a chat template (.jinja) for --chat-template")
    if file.stat().st_size > MAX_TEMPLATE:
        raise InputError(
            f"'{path}' has {file.stat().st_size:,} bytes, expected a chat template of at most {MAX_TEMPLATE:,}"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is not UTF-8 text, expected a chat template") from None
    if "messages" not in text:
        raise InputError(f"'{path}' does not mention 'messages', expected a chat template in Jinja that renders them")
    return text
