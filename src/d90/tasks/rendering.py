"""Conversations as token ids, and which of them are to be predicted.

A chat template's generation markers say what the model writes; where it has none, an answer is what rendering one turn more adds
to the turns before it with the generation prompt, checked on every conversation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from d90.errors import InputError
from d90.tasks.conversations import Conversation, Message

__all__ = ["Rendered", "Renderer", "cut", "has_markers"]


class Rendered(NamedTuple):
    """One example: its token ids, and which of them count."""

    ids: list[int]
    scored: list[bool]


class Renderer:
    """Renders conversations for one tokenizer.

    Args:
        tokenizer: of transformers, a fast one: spans of text must be found among its tokens.
        template: a chat template in place of the tokenizer's own.
        split_special: whether what looks like a special token in plain text is text. In a conversation the template decides.
        name: of the model, for messages.
    """

    def __init__(self, tokenizer: Any, template: str | None, split_special: bool, name: str) -> None:
        self.tokenizer, self.split_special, self.name = tokenizer, split_special, name
        self.template = template or getattr(tokenizer, "chat_template", None)
        if isinstance(self.template, dict):
            self.template = self.template.get("default")
        self.markers = self.template is not None and has_markers(self.template)
        self._behind = len(tokenizer("")["input_ids"]) - len(_leading(tokenizer))  # marks behind a text
        self.special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}

    def render(self, one: Conversation, number: int) -> Rendered:
        """The token ids of example `number` (from 1) and which of them count; each answer ends with a token that ends turns.

        Raises:
            InputError: no chat template, one that refuses or rewrites the conversation, or a tokenizer without an EOS token.
        """
        return self._plain(one) if one.plain else self._chat(one, number)

    def prompt(self, one: Conversation, number: int) -> list[int]:
        """What stands before the last answer: where a model begins to write."""
        last = one.answers[-1]
        if one.plain:
            return self._text(one.messages[0].content) or [self._start()]
        return self._ids(self._rendered(one, number, one.messages[:last], True))

    def ends(self, plain: bool = False) -> set[int]:
        """The tokens that end an answer: EOS, and what the template writes behind a turn."""
        found = {int(token) for token in [self.tokenizer.eos_token_id] if token is not None}
        if plain or self.template is None:
            return found
        turns = (Message("user", "a"), Message("assistant", "b"))
        ids, scored = self.render(Conversation(turns), 1)
        return found | {token for token, counts in zip(ids, scored, strict=True) if counts and token in self.special}

    def _plain(self, one: Conversation) -> Rendered:
        prompt, completion = (message.content for message in one.messages)
        before, whole = self._text(prompt), self._text(prompt + completion)
        # the completion begins where the two part, which is before the prompt's end where tokens merge across it
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
        )
        if not shared:
            whole, shared = [self._start(), *whole], 1
        eos = self._eos()
        whole += [] if whole[-1] == eos else [eos]
        return Rendered(whole, [i >= shared for i in range(len(whole))])

    def _text(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, split_special_tokens=self.split_special, verbose=False)["input_ids"]
        return ids[: len(ids) - self._behind]  # else they would stand between prompt and completion

    def _start(self) -> int:
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        found = next((int(token) for token in ids if token is not None), None)
        if found is None:
            raise InputError(
                f"the tokenizer of '{self.name}' has neither a bos nor an eos token, expected one to begin a completion without a "
                "prompt with; name one in its tokenizer_config.json"
            )
        return found

    def _eos(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer of '{self.name}' has no eos token, expected one to end answers with; name one in its "
                "tokenizer_config.json"
            )
        return int(self.tokenizer.eos_token_id)

    def _chat(self, one: Conversation, number: int) -> Rendered:
        if self.markers:
            return self._marked(one, number)
        text, spans = self._spans(one, number)
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(
                f"the tokenizer of '{self.name}' is a slow one, expected a fast one (tokenizer.json) for conversations"
            )
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = found["offset_mapping"]
        scored = [any(a < end and b > begin for begin, end in spans) for a, b in offsets]
        return self._ended(Rendered(list(found["input_ids"]), scored))

    def _spans(self, one: Conversation, number: int) -> tuple[str, list[tuple[int, int]]]:
        """The rendered text, and where its answers stand: for each, prefix comparison."""
        whole = self._rendered(one, number, one.messages, False)
        spans = []
        for i in one.answers:
            before = self._rendered(one, number, one.messages[:i], True)
            behind = whole if i + 1 == len(one.messages) else self._rendered(one, number, one.messages[: i + 1], False)
            if not whole.startswith(
                behind
            ):  # some templates, as Phi-3's, write EOS behind what they take for the last turn
                behind = behind.rstrip().removesuffix(self.tokenizer.eos_token or "")
            if not whole.startswith(behind) or not behind.startswith(before) or len(behind) == len(before):
                raise InputError(
                    f"example {number}: the chat template of '{self.name}' renders turn {i + 1} otherwise once there are more turns, so "
                    "that its answer cannot be told from what the model is given; expected one that keeps earlier turns, or one with "
                    "generation markers. Give it with --chat-template FILE"
                )
            spans.append((len(before), len(behind)))
        return whole, spans

    def _marked(self, one: Conversation, number: int) -> Rendered:
        whole = self._apply(
            one, number, one.messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, scored = whole["input_ids"], [bool(mark) for mark in whole["assistant_masks"]]
        if one.first:  # the answers of the prompt are given
            given = self._ids(self._rendered(one, number, one.messages[: one.first], True))
            scored = [mark and i >= len(given) for i, mark in enumerate(scored)]
        if not any(scored):
            raise InputError(
                f"example {number}: the chat template of '{self.name}' marks no answer; expected its generation markers around what "
                "the assistant writes. Give another with --chat-template FILE"
            )
        return self._ended(Rendered(ids, scored))

    def _ended(self, found: Rendered) -> Rendered:
        """With a token that ends the turn at the end of each answer: the template's own, or EOS."""
        ids, scored = list(found.ids), list(found.scored)
        ends = [i for i, counts in enumerate(scored, start=1) if counts and not any(scored[i : i + 1])]
        for end in reversed(ends):  # from the back: the places before stay what they are
            last = next((i for i in reversed(range(end)) if not self._blank(ids[i])), 0)
            if scored[last] and ids[last] in self.special:
                continue
            if self._closes(ids, end):
                scored[end] = True
            else:
                ids.insert(end, self._eos())
                scored.insert(end, True)
        return Rendered(ids, scored)

    def _closes(self, ids: Sequence[int], place: int) -> bool:
        """Whether the token there ends a turn: EOS, or a special token behind which another one or nothing follows."""
        if place >= len(ids) or ids[place] not in self.special:
            return False
        behind = next((token for token in ids[place + 1 :] if not self._blank(token)), None)
        return ids[place] == self.tokenizer.eos_token_id or behind is None or behind in self.special

    def _blank(self, token: int) -> bool:
        """Whether a token is white space."""
        return token not in self.special and not self.tokenizer.decode([token]).strip()

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def _rendered(self, one: Conversation, number: int, turns: Sequence[Any], begin: bool) -> str:
        if not turns and not begin:
            return ""
        found: str = self._apply(one, number, turns, tokenize=False, add_generation_prompt=begin)
        return found

    def _apply(self, one: Conversation, number: int, turns: Sequence[Any], **options: Any) -> Any:
        from jinja2 import TemplateError

        if self.template is None:
            raise InputError(
                f"the tokenizer of '{self.name}' has no chat template, expected one for conversations. Give one with --chat-template "
                "FILE, choose an instruction model, or name two text columns with --prompt and --completion"
            )
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return self.tokenizer.apply_chat_template(messages, chat_template=self.template, **options)
        except (TemplateError, TypeError, KeyError, ValueError, IndexError) as error:
            roles = ", ".join(turn.role for turn in one.messages[:8])
            raise InputError(
                f"example {number}: the chat template of '{self.name}' refuses this conversation ({roles}): "
                f"{' '.join(str(error).split())[:160] or type(error).__name__}. Change the conversation, or give another template with "
                "--chat-template FILE"
            ) from None


def has_markers(template: str) -> bool:
    """Whether a chat template says itself what the assistant writes."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def cut(found: Rendered, longest: int, number: int, name: str) -> Rendered:
    """Cut to the model's length: the beginning goes and the last answer stays; of an answer longer than that its end goes.

    Raises:
        InputError: the prompt alone is longer than the model takes.
    """
    if len(found.ids) <= longest:
        return found
    first = found.scored.index(True)
    if first >= longest:
        raise InputError(
            f"example {number}: its prompt has {first} tokens and '{name}' takes {longest}, expected room for an answer; shorten the "
            "prompt, drop the example, or raise --max-length where the model takes more"
        )
    end = len(found.ids) - found.scored[::-1].index(True)  # what follows the last answer is not needed
    last = end
    while last and found.scored[last - 1]:
        last -= 1
    begin = max(0, end - longest)
    if begin >= last:  # the answer alone is too long
        begin, end = 0, longest
    return Rendered(found.ids[begin:end], found.scored[begin:end])


def _leading(tokenizer: Any) -> list[int]:
    """The marks that a tokenizer puts before a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(whole) + 1) if whole[i : i + len(bare)] == bare), 0)
    return whole[:at]
