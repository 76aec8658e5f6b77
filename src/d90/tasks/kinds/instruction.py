"""Instruction data: conversations whose answers a causal language model learns."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError
from d90.files import Json
from d90.tasks.answers import SCRIPT, Questions, contains, exact, normalised, read_script, run_script
from d90.tasks.columns import Columns, Table
from d90.tasks.conversations import Conversation, Message, find_format, read_conversations
from d90.tasks.corpus_scores import CORPUS_METRICS, ROUGES, corpus_score, grade_written
from d90.tasks.kinds.base import Reading, TokenIds
from d90.tasks.kinds.language import Language, documents
from d90.tasks.metrics import LOSS
from d90.tasks.rendering import Renderer, cut
from d90.tasks.split import Split

__all__ = ["Instruction"]

MAX_TEMPLATE = 1 << 20  # bytes


@dataclass(frozen=True)
class Instruction(Language):
    """Each example is a conversation; the loss is the mean over conversations of each one's mean nats a token of its answers.

    Conversations that are equal up to the last answer make one independent example together: a prompt with several right answers. By BLEU,
    chrF and ROUGE an answer is held against all of them, by other metrics against its own.

    Attributes:
        template: a chat template in place of the tokenizer's own.
        everything: whether prompts count as well as answers.
        plain: prompts are texts to be continued, without a chat template.
        script: of the metric script:FILE, the text of the file.
    """

    name: ClassVar[str] = "instruction"
    stored: ClassVar[str] = "instruction"
    summary: ClassVar[str] = "conversations, or prompts and completions: a causal language model learns the answers"

    metrics: ClassVar[tuple[str, ...]] = ("exact", "contains", *CORPUS_METRICS, *ROUGES)

    template: str | None = None
    everything: bool = False
    plain: bool = False
    script: str | None = None

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

    def check(self, task: str, train: Split, metric: str) -> None:
        """The loss, or a metric of answers."""
        if metric not in (LOSS, *self.metrics) and not metric.startswith(SCRIPT):
            raise InputError(
                f"task '{task}': got metric '{metric}' for instruction data, expected {LOSS}, {', '.join(self.metrics)} or script:FILE"
            )

    @property
    def own_metric(self) -> str:
        """The loss."""
        return LOSS

    def source(self, example: tuple[str, ...]) -> str:
        """All that stands before the last answer."""
        return Conversation.from_json(example[0]).prompt

    def scored_by(self, metric: str) -> Instruction:
        """With the text of the script that a metric names."""
        script = read_script(metric) if metric.startswith(SCRIPT) else None
        return self if script == self.script else replace(self, script=script)

    def asks(self, metric: str) -> bool:
        """All but the loss."""
        return metric != LOSS

    def questions(self, tokenizer: Any, split: Split, split_special: bool, name: str) -> Questions:
        """What stands before each conversation's last answer, and that answer."""
        renderer = self.renderer(tokenizer, split_special, name)
        numbered = enumerate(split.inputs, start=1)
        prompts = [renderer.prompt(Conversation.from_json(text), number) for number, (text,) in numbered]
        texts, references = zip(*self._asked(split), strict=True)
        return Questions(prompts, list(texts), list(references), renderer.ends(self.plain), 0)

    def grade(self, metric: str, asked: Questions, answers: Sequence[str]) -> list[Any]:
        """Each answer's score, or of a metric of a whole corpus the counts that it is made from."""
        if metric in (*CORPUS_METRICS, *ROUGES):
            return grade_written(metric, list(map(tuple, asked.prompts)), answers, asked.references)
        return self._grades(metric, asked.texts, answers, asked.references)

    def _grades(
        self, metric: str, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str]
    ) -> list[int] | list[float]:
        if metric.startswith(SCRIPT):
            assert self.script is not None
            return run_script(metric, self.script, list(zip(prompts, answers, references, strict=True)))
        judge = {"exact": exact, "contains": contains}[metric]
        return [int(judge(answer, reference)) for answer, reference in zip(answers, references, strict=True)]

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """The mean over examples of their answers' scores; of what `grade` gave for a whole corpus its score."""
        return corpus_score(metric, predicted) if metric in CORPUS_METRICS else predicted.double().mean().item()

    def constant(self, metric: str, train: Split, split: Split, vocabulary: int | None = None) -> float:
        """The commonest answer of the training data, to every question; of the loss the uniform guess."""
        if metric == LOSS:
            return super().constant(metric, train, split, vocabulary)
        asked = self._asked(split)
        learnt = [answer for _, answer in self._asked(train)]
        commonest = Counter(map(normalised, learnt)).most_common(1)[0][0]
        guesses = [next(answer for answer in learnt if normalised(answer) == commonest)] * len(asked)
        prompts, references = zip(*asked, strict=True)
        if metric in (*CORPUS_METRICS, *ROUGES):
            found = grade_written(metric, list(map(self.source, split.inputs)), guesses, references)
        else:
            found = self._grades(metric, prompts, guesses, references)
        return self.measure(metric, torch.as_tensor(found), split.labels)

    @staticmethod
    def _asked(split: Split) -> list[tuple[str, str]]:
        """What a person reads of each conversation's last question, and the answer to it."""
        found = []
        for (text,) in split.inputs:
            one = Conversation.from_json(text)
            last = one.answers[-1]
            found.append((one.messages[max(0, last - 1)].content, one.messages[last].content))
        return found

    def metric_name(self, metric: str) -> str:
        """A script by the name of its file."""
        return f"script {os.path.basename(metric.removeprefix(SCRIPT))}" if metric.startswith(SCRIPT) else metric

    @property
    def marks(self) -> str:
        """The chat template that was given and the script that scores, by their hashes, and what counts."""
        template = (
            f"|template {hashlib.sha256(self.template.encode()).hexdigest()}" if self.template is not None else ""
        )
        script = f"|script {hashlib.sha256(self.script.encode()).hexdigest()}" if self.script is not None else ""
        return template + ("|all" if self.everything else "") + script

    @property
    def record(self) -> Json:
        """What was given otherwise than by default."""
        template = {} if self.template is None else {"chat_template": self.template}
        return template | ({"loss_on": "all"} if self.everything else {}) | ({"plain": True} if self.plain else {})

    def restored(self, record: Json) -> Instruction:
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
