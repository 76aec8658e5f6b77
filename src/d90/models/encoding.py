"""Texts to token ids: pairs kept apart, the user's words never special tokens, ids that the embedding has."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from d90.errors import InputError
from d90.models.choices import choices_behind, choices_beside
from d90.models.model import Model
from d90.models.pictures import PictureBatches
from d90.models.targets import encode_targets
from d90.models.windows import encode_windows
from d90.tasks.encoded import Encoded
from d90.tasks.kinds import TaskKind

__all__ = ["ModelEncoder", "encode", "separator_of", "start_token"]


@dataclass(frozen=True)
class ModelEncoder:
    """A model as a kind of task sees it: what makes token ids of texts (`d90.tasks.encoded.Encoder`)."""

    model: Model

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.model.tokenizer

    @property
    def pooling(self) -> str:
        """How vectors are made from a text's states."""
        return self.model.pooling

    def texts(self, inputs: Sequence[tuple[str, ...]], kind: TaskKind | None = None) -> Encoded:
        """Texts or pairs of texts, as `encode`."""
        return encode(self.model, inputs, kind)

    def words(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Sentences given as words: their texts with a space between words, as a user's text is read later.

        Raises:
            InputError: as `encode`; a tokenizer that does not say where its tokens stand.
        """
        _check_takes_texts(self.model)
        found = _words(self.model, inputs)
        _check_ids(self.model, found.ids, inputs)
        return found

    def targets(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Sources and targets of an encoder-decoder.

        Raises:
            InputError: as `encode`; a model or tokenizer without the marks that begin and end a target.
        """
        _check_takes_texts(self.model)
        found = _marked(self.model, [[source for source, _ in inputs]])
        added, cut = encode_targets(self.model, [target for _, target in inputs])
        for ids in (found.ids, added["target"]):
            _check_ids(self.model, ids, inputs)
        return Encoded({"input_ids": found.ids, **added}, found.truncated + cut)

    def windows(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Questions and contexts, in windows.

        Raises:
            InputError: as `encode`; a tokenizer that does not say where its tokens stand.
        """
        _check_takes_texts(self.model)
        found = encode_windows(self.model, inputs, not self.model.inputs or "token_type_ids" in self.model.inputs)
        _check_ids(self.model, found.ids, inputs)
        return found

    def choices(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Questions with their choices, each beside the question, or behind it for a causal model.

        Raises:
            InputError: as `encode`; a choice that is too long.
        """
        _check_takes_texts(self.model)
        if self.model.vocabulary is None:
            return choices_beside(inputs, self.texts)

        def ids_of(texts: list[str]) -> list[list[int]]:
            found: list[list[int]] = _call(self.model, texts, add_special_tokens=False, verbose=False)["input_ids"]
            return found

        found = choices_behind(self.model, inputs, ids_of, _beginning(self.model))
        _check_ids(self.model, found.ids, inputs)
        return found

    def pictures(self, inputs: Sequence[tuple[str, ...]]) -> PictureBatches:
        """Pictures as the model's processor prepares them.

        Raises:
            InputError: a model of texts.
        """
        if self.model.tokenizer is not None:
            raise InputError(
                f"model '{self.model.name}' takes texts and the task has pictures; choose one such as ViT or ResNet"
            )
        return PictureBatches(self.model.processor, inputs)


def _encoded(ids: list[list[int]], types: list[list[int]] | None, truncated: int) -> Encoded:
    return Encoded({"input_ids": ids} | ({} if types is None else {"token_type_ids": types}), truncated)


def encode(model: Model, inputs: Sequence[tuple[str, ...]], kind: TaskKind | None = None) -> Encoded:
    """Tokenise texts or pairs of texts, cut to the model's length; a kind of task that makes token ids itself does so.

    What looks like a special token in a text is text. A text of no token is encoded as the token that begins documents, alone as
    in a batch.

    Raises:
        InputError: the model takes images, an id that the embedding does not have, or a text of no token that nothing stands for.
    """
    _check_takes_texts(model)
    if not inputs:
        return _encoded([], None, 0)
    made = kind and kind.tokens(model.tokenizer, inputs, model.max_length, model.split_special, model.name)
    if made:
        _check_ids(model, made.ids, inputs)
        return Encoded(
            {"input_ids": made.ids, "scored": [[int(one) for one in row] for row in made.scored]}, made.truncated
        )
    columns = [list(column) for column in zip(*inputs, strict=True)]
    if model.vocabulary is not None:
        found = _documents(model, columns[0])
    elif len(columns) > 1 and model.separator is not None:
        found = _separated(model, *columns)
    else:
        found = _marked(model, columns)
    _check_ids(model, found.ids, inputs)
    return found


def _check_takes_texts(model: Model) -> None:
    if model.tokenizer is None:
        raise InputError(
            f"model '{model.name}' takes images and the task has texts; choose a text model such as minilm, or give your network "
            "its tokenizer: d90.Model(name, net, tokenizer)"
        )


def _call(model: Model, *columns: Any, **options: Any) -> Any:
    assert model.tokenizer is not None
    return model.tokenizer(*columns, split_special_tokens=model.split_special, **options)


def _marked(model: Model, columns: Sequence[list[str]]) -> Encoded:
    """With the tokenizer's own marks around and between the texts."""
    found = _call(model, *columns, truncation=False, verbose=False)
    longest = model.max_length or max(map(len, found["input_ids"]))
    truncated = sum(len(ids) > longest for ids in found["input_ids"])
    if truncated:
        found = _call(model, *columns, truncation=True, max_length=longest)
    ids = [row or _nothing(model, i) for i, row in enumerate(found["input_ids"])]
    return _encoded(ids, _types(model, found), truncated)


def _types(model: Model, found: Any) -> list[list[int]] | None:
    """Token types, where the model takes these."""
    types = found.get("token_type_ids")
    if types is None:
        return None
    types = [row or [0] for row in types]
    kinds = getattr(getattr(model.module, "config", None), "type_vocab_size", None)
    taken = not model.inputs or "token_type_ids" in model.inputs
    return None if not taken or (kinds is not None and kinds <= max(map(max, types))) else types


def _words(model: Model, inputs: Sequence[tuple[str, ...]]) -> Encoded:
    """Tokens of the words' text, and the first token of each word, -1 where it has none or was cut."""
    if not getattr(model.tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer of '{model.name}' does not say where in a text its tokens stand, expected a fast one with a "
            "tokenizer.json; choose such a model"
        )
    texts = [" ".join(words) for words in inputs]
    found = _call(model, texts, truncation=False, verbose=False)
    longest = model.max_length or max(map(len, found["input_ids"]))
    truncated = sum(len(ids) > longest for ids in found["input_ids"])
    found = _call(model, texts, truncation=True, max_length=longest, return_offsets_mapping=True)
    ids = [row or _nothing(model, i) for i, row in enumerate(found["input_ids"])]
    first = [first_tokens(words, places) for words, places in zip(inputs, found["offset_mapping"], strict=True)]
    encoded = _encoded(ids, _types(model, found), truncated)
    encoded.features["first"] = first
    return encoded


def first_tokens(words: Sequence[str], places: Sequence[tuple[int, int]]) -> list[int]:
    """Where each word's first token stands, from the tokens' places in the words' text; some begin at the space before a word."""
    starts = [0]
    for word in words[:-1]:
        starts.append(starts[-1] + len(word) + 1)
    first = [-1] * len(words)
    for token, (low, high) in enumerate(places):
        if low == high:
            continue
        at = bisect.bisect_right(starts, high - 1) - 1
        if first[at] < 0 and high - 1 < starts[at] + len(words[at]):
            first[at] = token
    return first


def _separated(model: Model, first: list[str], second: list[str]) -> Encoded:
    """With `model.separator` between the texts; the longer of the two is cut first, as tokenizers do."""
    assert model.separator is not None
    before, behind = _around(model.tokenizer)
    pairs = [_call(model, texts, add_special_tokens=False, verbose=False)["input_ids"] for texts in (first, second)]
    marks = len(before) + len(behind) + 1
    rows, truncated = [], 0
    for a, b in zip(*pairs, strict=True):
        room = len(a) + len(b) if model.max_length is None else max(model.max_length - marks, 0)
        truncated += len(a) + len(b) > room
        # what is over falls on the longer one, then on both alike; an odd token on the second
        length = min(len(a), max(room - len(b), (room + 1) // 2))
        rows.append([*before, *a[:length], model.separator, *b[: room - length], *behind])
    return _encoded(rows, None, truncated)


def separator_of(tokenizer: Any) -> int | None:
    """The token to put between two texts, where the tokenizer puts nothing there: its sep, eos or bos token, else a line's end.

    None where the tokenizer tells them apart itself.
    """
    a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
    whole = tokenizer("a", "b")["input_ids"]
    glued = any(whole[i : i + len(a + b)] == a + b for i in range(len(whole)))
    if not glued:
        return None
    named = (tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    line = tokenizer("\n", add_special_tokens=False)["input_ids"]
    found = next((token for token in named if token is not None), line[-1] if line else None)
    return None if found is None else int(found)


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The marks before and behind a single text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    at = next(i for i in range(len(whole) + 1) if whole[i : i + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def _documents(model: Model, texts: list[str]) -> Encoded:
    """A mark of the beginning, then the document: so its first token is predicted as well. No other mark is added."""
    start = _beginning(model)
    found = [[start, *ids] for ids in _call(model, texts, add_special_tokens=False, verbose=False)["input_ids"]]
    empty = next((i for i, ids in enumerate(found) if len(ids) < 2), None)
    if empty is not None:
        raise InputError(f"document {empty + 1} has no token ('{texts[empty][:40]}'), expected text; drop it")
    longest = model.max_length or max(map(len, found))
    return _encoded([ids[:longest] for ids in found], None, sum(len(ids) > longest for ids in found))


def _beginning(model: Model) -> int:
    start = start_token(model.tokenizer)
    if start is None:
        raise InputError(
            f"the tokenizer of '{model.name}' has neither a bos nor an eos token, expected one to begin documents with; "
            "name one in its tokenizer_config.json"
        )
    return start


def start_token(tokenizer: Any) -> int | None:
    """The token that begins documents: bos, else eos; None where a tokenizer has neither."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in ids if token is not None), None)


def _nothing(model: Model, index: int) -> list[int]:
    """What a text of no token is encoded as."""
    start = start_token(model.tokenizer)
    if start is None:
        raise InputError(
            f"example {index + 1} has no token, and the tokenizer of '{model.name}' has neither a bos nor an eos token to stand for "
            "an empty text; expected some text. Drop the example"
        )
    return [start]


def _check_ids(model: Model, ids: Sequence[Sequence[int]], inputs: Sequence[tuple[str, ...]]) -> None:
    """Refuse ids that the embedding has no row for, padding included, before torch fails at some batch in its own words.

    Raises:
        InputError: which, and where it first stands.
    """
    rows = model.rows
    if rows is None:
        return
    tokenizer: Any = model.tokenizer
    words: Callable[[int], str] = lambda token: str(tokenizer.convert_ids_to_tokens(token))  # noqa: E731
    cause = "Likely cause: the tokenizer of another model, or tokens added without resizing the embedding"
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is not None and pad >= rows:
        raise InputError(
            f"model '{model.name}': its tokenizer pads with '{words(pad)}', id {pad}, and its embedding has {rows} rows; expected an "
            f"id below {rows}. {cause}"
        )
    worst = next((i for i, row in enumerate(ids) if max(row) >= rows), None)
    if worst is not None:
        token = max(ids[worst])
        raise InputError(
            f"model '{model.name}': example {worst + 1} ('{' | '.join(inputs[worst])[:40]}') has token '{words(token)}', id {token}, "
            f"and the embedding has {rows} rows; expected ids below {rows}. {cause}"
        )
