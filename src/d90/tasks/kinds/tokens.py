"""A tag for each word: named entities, parts of speech."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from d90.errors import InputError, quoted
from d90.search.rules import Scale, set_scale
from d90.tasks.columns import Columns, Table
from d90.tasks.encoded import Encoded, Encoder
from d90.tasks.kinds.base import Prediction, Reading, Scalar, TaskKind
from d90.tasks.labels import class_names, class_numbers
from d90.tasks.metrics import LOSS
from d90.tasks.split import Split

__all__ = ["NO_TAG", "Tokens", "entities"]

NO_TAG = -100  # in labels behind a sentence's end; in predictions where the model sees no token of a word
UNSEEN = torch.finfo(
    torch.float32
).min  # in outputs, of every tag of a word without a token: no value that a model gives
WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels")
ENTITY_F1, TOKEN_ACCURACY = "entity_f1", "token_accuracy"
_WORD = re.compile(r"\w+|[^\w\s]")  # of a text that is given whole: words, and signs apart from them

for _metric in (ENTITY_F1, TOKEN_ACCURACY):  # words of one sentence are not independent: neither is counted
    set_scale(_metric, Scale(share=True))

Entity = tuple[str, int, int]  # type, first word, behind the last one


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """Entities of IOB2 tags, strictly: each begins with its B-, and an I- that follows no B- or I- of its type belongs to none."""
    kind, start = "", 0
    for i, tag in enumerate((*tags, "O")):
        prefix, _, name = tag.partition("-")
        if kind and not (prefix == "I" and name == kind):
            yield kind, start, i
            kind = ""
        if prefix == "B":
            kind, start = name, i


@dataclass(frozen=True)
class Tokens(TaskKind):
    """One of several tags for each word; the loss is the mean over sentences of each one's mean cross-entropy on its words' first tokens.

    Words that the model does not see, as it cuts long sentences, are left out of the loss, and count as predicted to be outside.
    """

    name: ClassVar[str] = "tokens"
    stored: ClassVar[str] = "tokens"
    summary: ClassVar[str] = "a tag for each word: columns tokens and tags (ner_tags, labels), or CoNLL files"
    auto_class: ClassVar[str | None] = "AutoModelForTokenClassification"
    metrics: ClassVar[tuple[str, ...]] = (ENTITY_F1, TOKEN_ACCURACY)
    classes: ClassVar[bool] = True
    beside: ClassVar[tuple[str, ...]] = ("first",)
    padding: ClassVar[Mapping[str, int]] = {"first": -1}
    filler: ClassVar[float] = UNSEEN
    right_or_wrong: ClassVar[bool] = True
    mistake: ClassVar[str] = "a sentence with a wrong tag"
    hub_task: ClassVar[str | None] = "token-classification"
    peft_task: ClassVar[str | None] = "TOKEN_CLS"

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """A list of words, and one of tags."""
        words, tags = _columns(table, columns)
        return all(isinstance(table.rows[0].get(name), list) for name in (words, tags))

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Tags are those of the training table; an I- without its B- is counted and noted."""
        found = {part: _sentences(table, columns) for part, table in tables.items()}
        flat = {part: [tag for _, tags in rows for tag in tags] for part, rows in found.items()}
        names = class_names(flat["train"], tables["train"], True)
        splits = {part: _split(rows, names, tables[part]) for part, rows in found.items()}
        kind = cls(names)
        notes = [] if given else [f"kind: tokens, {len(names)} tags, guessed; --kind names another"]
        if kind.entities_tagged:
            for part, rows in found.items():
                count = sum(map(_loose, (tags for _, tags in rows)))
                if count:
                    notes.append(
                        f"{part}: {count:,} I- tags follow no tag of their entity, which begins with B-; they belong to none"
                    )
        return Reading(kind, splits, tuple(notes))

    @property
    def entities_tagged(self) -> bool:
        """Whether the tags are O, B-TYPE and I-TYPE."""
        prefixes = {name.partition("-")[0] for name in self.labels if name != "O"}
        return (
            bool(prefixes) and prefixes <= {"B", "I"} and all(name == "O" or name[1:2] == "-" for name in self.labels)
        )

    @property
    def own_metric(self) -> str:
        """F1 of entities, or the accuracy of tags that mark none."""
        return ENTITY_F1 if self.entities_tagged else TOKEN_ACCURACY

    def check(self, task: str, train: Split, metric: str) -> None:
        """As the others; F1 of entities takes tags that mark entities."""
        super().check(task, train, metric)
        if metric == ENTITY_F1 and not self.entities_tagged:
            raise InputError(
                f"task '{task}': got metric '{ENTITY_F1}' for tags {', '.join(self.labels[:6])}, expected O, B-TYPE and I-TYPE. "
                f"Use {TOKEN_ACCURACY}, or write the tags so: S- as B-, E- as I-"
            )
        if len(torch.unique(train.labels[train.labels >= 0])) < 2:
            raise InputError(
                f"task '{task}': all training tags are {quoted(self.labels[0])}; expected at least two tags. Likely cause: the "
                "wrong column, or a file cut short"
            )

    def texts(self, split: Split) -> int:
        """One: a sentence."""
        return 1

    def examples(self, texts: Sequence[tuple[str, ...]]) -> Split:
        """The words and signs of each text.

        Raises:
            InputError: a text without any.
        """
        found = [tuple(match.group() for match in _WORD.finditer(text)) for (text,) in texts]
        empty = next((i for i, words in enumerate(found, start=1) if not words), None)
        if empty is not None:
            raise InputError(f"example {empty} has no word, expected some text; leave it out")
        return Split(found, torch.full((len(found), max(map(len, found))), NO_TAG))

    # --- model -----------------------------------------------------------------------------------------------------

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor:
        """Token ids, and where each word's first token stands."""
        assert not isinstance(split.inputs, Tensor)
        return encoder.words(split.inputs)

    @property
    def outputs(self) -> int:
        """A logit for each tag, at each token."""
        return len(self.labels)

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The logits at each word's first token (n, words, tags) from those at each token (n, tokens, tags)."""
        first = batch["first"].to(logits.device)
        found = logits.float().gather(1, first.clamp(min=0)[..., None].expand(-1, -1, logits.shape[-1]))
        return found.masked_fill(first[..., None] < 0, UNSEEN)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Each sentence's mean cross-entropy over the words that the model sees, in nats."""
        labels = labels[:, : outputs.shape[1]]
        seen = (labels >= 0) & (outputs[..., 0] != UNSEEN)
        kept = outputs.where(seen[..., None], 0.0).transpose(1, 2)
        nats = torch.nn.functional.cross_entropy(kept, labels.where(seen, 0), reduction="none")
        return nats.where(seen, 0.0).sum(dim=1) / seen.sum(dim=1).clamp(min=1)

    # --- predictions -----------------------------------------------------------------------------------------------

    def predict(self, outputs: Tensor) -> Tensor:
        """Each word's likeliest tag (n, words); `NO_TAG` where the model sees no token of it."""
        return outputs.argmax(dim=-1).where(outputs[..., 0] != UNSEEN, NO_TAG)

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """The entities with their places in the text, and every word's tag; the place of the text's first character is 0."""
        found = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(example[0])] if example else []
        shares = output[: len(found)].float().softmax(dim=-1)
        tags = [self._tag(int(number)) for number in self.predict(output[None, : len(found)])[0]]
        text = example[0] if example else ""
        marked: list[Mapping[str, Scalar]] = [
            {
                "type": kind,
                "text": text[found[low][1] : found[high - 1][2]],
                "start": found[low][1],
                "end": found[high - 1][2],
                "probability": shares[low:high].amax(dim=-1).mean().item(),
            }
            for kind, low, high in (entities(tags) if self.entities_tagged else ())
        ]
        words: list[Mapping[str, Scalar]] = [
            {"word": word, "tag": tag, "start": low} for (word, low, _), tag in zip(found, tags, strict=True)
        ]
        return {"entities": marked, "words": words} if self.entities_tagged else {"words": words}

    def _right(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Which words have the right tag (n, words); those without a token count as predicted to be outside."""
        outside = self.labels.index("O") if "O" in self.labels else NO_TAG
        return predicted.where(predicted >= 0, outside) == labels

    def held_against(self, outputs: Tensor, split: Split) -> tuple[Tensor, Tensor]:
        """1 where all tags of a sentence are right, against 1."""
        right = self._right(_as_wide(self.predict(outputs), split.labels), split.labels) | (split.labels < 0)
        whole = right.all(dim=1) & outputs.flatten(1).isfinite().all(dim=1)
        return whole.long(), torch.ones_like(whole, dtype=torch.int64)

    def constant_error(self, train: Split, split: Split) -> float:
        """The share of sentences in which some tag is not the commonest of training."""
        common = torch.bincount(train.labels[train.labels >= 0]).argmax()
        return ((split.labels != common) & (split.labels >= 0)).any(dim=1).float().mean().item()

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """F1 of entities, each right where its type and both ends are; or the share of words with the right tag."""
        predicted = _as_wide(predicted, labels)
        if metric == TOKEN_ACCURACY:
            return self._right(predicted, labels)[labels >= 0].double().mean().item()
        if metric != ENTITY_F1:
            return super().measure(metric, predicted, labels)
        hits = total = 0
        for guess, right in zip(predicted.tolist(), labels.tolist(), strict=True):
            length = sum(number >= 0 for number in right)
            ours, theirs = (set(entities([self._tag(n) for n in row[:length]])) for row in (guess, right))
            hits += len(ours & theirs)
            total += len(ours) + len(theirs)
        return 2 * hits / total if total else 0.0

    def _tag(self, number: int) -> str:
        return self.labels[number] if number >= 0 else "O"

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Always the commonest training tag; for the loss the tags' frequencies."""
        counts = torch.bincount(train[train >= 0], minlength=len(self.labels))
        if metric == LOSS:
            logits = (counts / counts.sum()).clamp(min=1e-6).log()
            return self.score(metric, logits.expand(*labels.shape, -1), labels)
        return self.measure(metric, counts.argmax().expand_as(labels), labels)


def _as_wide(predicted: Tensor, labels: Tensor) -> Tensor:
    """Predictions (n, words) with as many words as the labels: the longest sentences may not be among the examples."""
    if predicted.shape[1] < labels.shape[1]:
        predicted = torch.nn.functional.pad(predicted, (0, labels.shape[1] - predicted.shape[1]), value=NO_TAG)
    return predicted[:, : labels.shape[1]]


def _columns(table: Table, columns: Columns) -> tuple[str, str]:
    """The names of the columns of words and of tags: those that were named, or the first usual ones that are there."""
    row = table.rows[0]
    words = columns.text[0] if columns.text else next((name for name in WORDS if name in row), WORDS[0])
    tags = columns.given_label or next((name for name in TAGS if isinstance(row.get(name), list)), TAGS[0])
    return words, tags


def _sentences(table: Table, columns: Columns) -> list[tuple[tuple[str, ...], list[str]]]:
    """Each row's words and tags.

    Raises:
        InputError: a row without both lists, of different lengths, or without a word.
    """
    names = _columns(table, columns)
    found = []
    for i, row in enumerate(table.rows):
        for name, what in zip(names, ("words", "tags"), strict=True):
            if not isinstance(row.get(name), list):
                raise InputError(
                    f"{table.spot(i)}: column {quoted(name)} holds no list, expected the sentence's {what} as a list"
                )
        words, tags = row[names[0]], row[names[1]]
        if len(words) != len(tags):
            raise InputError(f"{table.spot(i)}: {len(words)} words and {len(tags)} tags, expected a tag for each word")
        bad = [word for word in words if not isinstance(word, str) or not word.strip()]
        if bad or not words:
            got = f"{quoted(bad[0])} among the words" if bad else "no word"
            raise InputError(f"{table.spot(i)}: {got}, expected a sentence's words; drop or mend the row")
        wrong = [tag for tag in tags if not isinstance(tag, str | int) or tag == ""]
        if wrong:
            raise InputError(f"{table.spot(i)}: {quoted(wrong[0])} among the tags, expected a name or a number")
        found.append((tuple(words), [str(tag) for tag in tags]))
    return found


def _split(rows: Sequence[tuple[tuple[str, ...], list[str]]], names: tuple[str, ...], table: Table) -> Split:
    labels = torch.full((len(rows), max(len(words) for words, _ in rows)), NO_TAG)
    for i, (_, tags) in enumerate(rows):
        labels[i, : len(tags)] = class_numbers(tags, names, Table([], table.where, [table.place(i)] * len(tags)))
    return Split([words for words, _ in rows], labels)


def _loose(tags: Sequence[str]) -> int:
    """How many I- follow no B- or I- of their type."""
    before = ["O", *tags[:-1]]
    return sum(tag[:2] == "I-" and last not in (tag, f"B-{tag[2:]}") for last, tag in zip(before, tags, strict=True))
