"""A text to be written for a text: translations, summaries, what a table of attributes says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError, quoted, unknown_name
from d90.tasks.answers import Questions, exact
from d90.tasks.columns import Columns, Table, check_text
from d90.tasks.corpus_scores import CORPUS_METRICS, ROUGES, corpus_score, grade_written
from d90.tasks.encoded import Encoded, Encoder
from d90.tasks.kinds.base import Reading, TaskKind
from d90.tasks.kinds.language import ABSENT, Language, documents
from d90.tasks.metrics import LOSS
from d90.tasks.readers.lines import Row
from d90.tasks.split import Split

__all__ = ["Seq2Seq"]

PAIRS = (("source", "target"), ("src", "tgt"), ("document", "summary"), ("article", "highlights"))
GIVEN = (("prompt", "completion"), ("instruction", "output"))  # of these only where the user names the kind
TRANSLATION = "translation"
NOT_COUNTED = -100  # in targets behind their end


@dataclass(frozen=True)
class Seq2Seq(Language):
    """Each example is a source and its target; the loss is the mean over examples of each one's mean nats a target token.

    Of examples with equal sources, one independent example together, an answer is held against all targets by BLEU, chrF and ROUGE,
    against its own by exact match.
    """

    name: ClassVar[str] = "seq2seq"
    stored: ClassVar[str] = "seq2seq"
    summary: ClassVar[str] = (
        "a text written for a text by an encoder-decoder: columns source and target, or translation"
    )
    auto_class: ClassVar[str | None] = "AutoModelForSeq2SeqLM"
    encoder_decoder: ClassVar[bool | None] = True
    metrics: ClassVar[tuple[str, ...]] = ("exact", *CORPUS_METRICS, *ROUGES)
    beside: ClassVar[tuple[str, ...]] = ("target",)
    padding: ClassVar[Mapping[str, int]] = {"target": NOT_COUNTED}
    sized: ClassVar[tuple[str, ...]] = ("input_ids", "target")
    writes: ClassVar[bool] = True
    hub_task: ClassVar[str | None] = "text2text-generation"
    peft_task: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    shown: ClassVar[str] = "source"

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """The columns of a source and its target, or a dictionary of translations; no label."""
        row = table.rows[0]
        if columns.given_label or columns.text or any(columns.conversation.values()) or columns.label in row:
            return False
        translations = row.get(TRANSLATION)
        return _there(row, PAIRS) is not None or (isinstance(translations, Mapping) and len(translations) > 1)

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Each row's source and target."""
        names = _names(tables["train"], columns)
        splits = {part: documents(_pairs(table, names)) for part, table in tables.items()}
        notes = [f"{sum(map(len, splits.values())):,} examples: {names[1]} is to be written for {names[0]}"]
        notes += [] if given else ["kind: seq2seq, guessed from the columns; --kind names another"]
        return Reading(cls(), splits, tuple(notes))

    def texts(self, split: Split) -> int:
        """One: the source."""
        return 1

    def source(self, example: tuple[str, ...]) -> str:
        """The source."""
        return example[0]

    def examples(self, texts: Sequence[tuple[str, ...]]) -> Split:
        """Sources whose targets are to be written."""
        return documents([(source, "") for (source,) in texts])

    # --- scores ------------------------------------------------------------------------------------------------------

    @property
    def own_metric(self) -> str:
        """The loss."""
        return LOSS

    def check(self, task: str, train: Split, metric: str) -> None:
        """The loss, or a metric of answers."""
        if metric not in (LOSS, *self.metrics):
            raise unknown_name(f"metric of {self.name} for task '{task}':", metric, (LOSS, *self.metrics))

    def asks(self, metric: str) -> bool:
        """All but the loss."""
        return metric != LOSS

    def questions(self, tokenizer: Any, split: Split, split_special: bool, name: str) -> Questions:
        """Each source, and its target."""
        sources, targets = zip(*split.inputs, strict=True)
        return Questions([], list(sources), list(targets), set(), 0)

    def grade(self, metric: str, asked: Questions, answers: Sequence[str]) -> list[Any]:
        """Each answer's score, or of a metric of a whole corpus the counts that it is made from."""
        if metric not in (*CORPUS_METRICS, *ROUGES):
            return [int(exact(answer, reference)) for answer, reference in zip(answers, asked.references, strict=True)]
        return grade_written(metric, asked.texts, answers, asked.references)

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """Of what `grade` gave: the score of these examples together."""
        return corpus_score(metric, predicted) if metric in CORPUS_METRICS else predicted.double().mean().item()

    def constant(self, metric: str, train: Split, split: Split, vocabulary: int | None = None) -> float:
        """The commonest target of the training data, for every source; of the loss the uniform guess."""
        if metric == LOSS:
            return super().constant(metric, train, split, vocabulary)
        guess = Counter(target for _, target in train.inputs).most_common(1)[0][0]
        asked = self.questions(None, split, True, "")
        return self.measure(metric, torch.as_tensor(self.grade(metric, asked, [guess] * len(split))), split.labels)

    # --- batches and model -------------------------------------------------------------------------------------------

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor:
        """Token ids of the sources, the decoder's inputs, and the tokens that it is to give."""
        assert not isinstance(split.inputs, Tensor)
        return encoder.targets(split.inputs)

    def collate(self, examples: Sequence[Mapping[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
        """Sources and targets, each padded to the longest of its own."""
        return TaskKind.collate(self, examples, tokenizer)

    def predicting(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Where a token of the target is to be given, (n, target tokens)."""
        return batch["target"] != NOT_COUNTED

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Each target token's nats (n, target tokens); `ABSENT` behind the end.

        Args:
            logits: (n, target tokens, V), or (k, V) at the k places that `predicting` names, in their order.
        """
        target = batch["target"].to(logits.device)
        places = self.predicting(batch).to(logits.device)
        flat = logits if logits.dim() == 2 else logits[places]
        nats = torch.nn.functional.cross_entropy(flat.float(), target[places], reduction="none")
        return nats.new_full(target.shape, ABSENT).masked_scatter(places, nats)


def _there(row: Row, pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The first pair of columns that a row has, both of them texts."""
    return next((names for names in pairs if all(isinstance(row.get(name), str) for name in names)), None)


def _names(table: Table, columns: Columns) -> tuple[str, str]:
    """The columns, or languages, of source and target: those named with --text and --label, or --prompt and --completion, or usual ones.

    Raises:
        InputError: one of both is not known; what the table has.
    """
    row = table.rows[0]
    if columns.text and len(columns.text) > 1:
        raise InputError(
            f"got two text columns for {Seq2Seq.name}, expected the column of the source; name the target's with --label"
        )
    source = columns.prompt or (columns.text[0] if columns.text else None)
    target = columns.completion or columns.given_label
    found = _there(row, (*PAIRS, *GIVEN))
    if isinstance(row.get(TRANSLATION), Mapping):
        languages = [str(name) for name in row[TRANSLATION]]
        found = (languages[0], languages[1]) if len(languages) > 1 else None
        row = row[TRANSLATION]
    names = (source or (found and found[0]), target or (found and found[1]))
    missing = [name for name in names if name is not None and name not in row]
    if None in names or missing:
        lacks = f"no column {quoted(missing[0])}" if missing else "no columns source and target"
        shown = ", ".join(quoted(name)[1:-1] for name in list(row)[:20])
        raise InputError(f"{table.where}: {lacks}; it has {shown}. Name both with --text SOURCE --label TARGET")
    return names[0], names[1]  # type: ignore[return-value]


def _pairs(table: Table, names: tuple[str, str]) -> list[tuple[str, ...]]:
    """Each row's source and target.

    Raises:
        InputError: a row that lacks one of them, or whose text is empty.
    """
    found = []
    for i, row in enumerate(table.rows):
        held = row[TRANSLATION] if isinstance(row.get(TRANSLATION), Mapping) else row
        pair = tuple(check_text(held.get(name), name, table.spot(i)) for name in names)
        empty = next((name for name, text in zip(names, pair, strict=True) if not text.strip()), None)
        if empty is not None:
            raise InputError(f"{table.spot(i)}: {quoted(empty)} is empty, expected a text; drop the row")
        found.append(pair)
    return found
