"""An answer that stands in a text: questions about contexts, some of them perhaps without an answer there."""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from d90.errors import InputError, quoted, unknown_name
from d90.files import Json
from d90.search.rules import Scale, set_scale
from d90.tasks.answers import Questions
from d90.tasks.columns import Columns, Table, check_text
from d90.tasks.encoded import Encoded, Encoder
from d90.tasks.kinds.base import Prediction, Reading, TaskKind, padded
from d90.tasks.metrics import LOSS
from d90.tasks.split import Split

__all__ = ["NO_ANSWER", "Answering", "answer_f1", "squad_normalised"]

NO_PLACE, NO_ANSWER = -1, -2  # in places of characters: nothing stands there; the mark that stands for "no answer"
LONGEST = 30  # tokens of an answer that is predicted
EXACT, ANSWER_F1 = "exact", "answer_f1"
set_scale(ANSWER_F1, Scale(share=True, answers=True))
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_normalised(text: str) -> str:
    """A text as SQuAD's scores compare it: small letters, no punctuation, no articles, one space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_f1(answer: str, reference: str) -> float:
    """F1 of the words that both share, each counted as often as it stands there; of an empty one 1 where both are."""
    ours, theirs = squad_normalised(answer).split(), squad_normalised(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


@dataclass(frozen=True)
class Answering(TaskKind):
    """Where in its context a question's answer begins and ends.

    A context longer than the model is read in windows that overlap. Probabilities are over the tokens of all windows together; the loss
    is the mean of the nats of begin and end. Labels are (n, answers, 2): the places of an answer's first character and behind its last.

    Attributes:
        unanswerable: whether some questions of the data have no answer, so that "none" is one.
    """

    name: ClassVar[str] = "question-answering"
    stored: ClassVar[str] = "question-answering"
    summary: ClassVar[str] = "the answer's place in a context: columns question, context and answers, as SQuAD has them"
    auto_class: ClassVar[str | None] = "AutoModelForQuestionAnswering"
    metrics: ClassVar[tuple[str, ...]] = (ANSWER_F1, EXACT)
    beside: ClassVar[tuple[str, ...]] = ("owner", "low", "high", "window")
    filler: ClassVar[float] = float(NO_PLACE)
    extracts: ClassVar[bool] = True
    right_or_wrong: ClassVar[bool] = True
    mistake: ClassVar[str] = "an answer that is not exact"
    hub_task: ClassVar[str | None] = "question-answering"
    peft_task: ClassVar[str | None] = "QUESTION_ANS"
    shown: ClassVar[str] = "question,context"

    sources_are: ClassVar[str] = "contexts"

    unanswerable: bool = False

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """A question, a context and answers."""
        row = table.rows[0]
        return all(name in row for name in ("question", "context")) and isinstance(row.get("answers"), Mapping | list)

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """Each answer is checked to stand at its offset."""
        names = columns.text or ("question", "context")
        if len(names) != 2:
            raise InputError(f"got one text column for {cls.name}, expected two: --text QUESTION,CONTEXT")
        answers = columns.given_label or "answers"
        splits, none = {}, 0
        for part, table in tables.items():
            texts, places = [], []
            for i, row in enumerate(table.rows):
                spot = table.spot(i)
                pair = tuple(check_text(row.get(name), name, spot) for name in names)
                empty = next((name for name, text in zip(names, pair, strict=True) if not text.strip()), None)
                if empty is not None:
                    raise InputError(f"{spot}: {quoted(empty)} is empty, expected a text; drop the row")
                texts.append(pair)
                places.append(_places(row.get(answers), pair[1], answers, spot))
            none += sum(not found for found in places)
            splits[part] = Split(texts, _labels(places))
        kind = cls(unanswerable=none > 0)
        notes = [] if given else [f"kind: {cls.name}, guessed from the columns; --kind names another"]
        notes += (
            [f"{none:,} questions have no answer in their context: no answer is one that may be given"] if none else []
        )
        return Reading(kind, splits, tuple(notes))

    def source(self, example: tuple[str, ...]) -> str:
        """The context: questions on one are no independent draws."""
        return example[1]

    def check(self, task: str, train: Split, metric: str) -> None:
        """As the others, and only those."""
        if metric not in (LOSS, *self.metrics):
            raise unknown_name(f"metric of {self.name} for task '{task}':", metric, (LOSS, *self.metrics))

    @property
    def marks(self) -> str:
        """Whether there may be no answer."""
        return "|unanswerable" if self.unanswerable else ""

    @property
    def record(self) -> Json:
        """Whether there may be no answer."""
        return {"unanswerable": True} if self.unanswerable else {}

    def restored(self, record: Json) -> Answering:
        """As a finished tune was trained."""
        return replace(self, unanswerable=record.get("unanswerable") is True)

    def examples(self, texts: Sequence[tuple[str, ...]]) -> Split:
        """Questions and contexts."""
        return Split(list(texts), torch.full((len(texts), 1, 2), NO_PLACE))

    @property
    def cut(self) -> str:
        """What is said of long texts."""
        return "were read in windows that overlap, or had their question cut"

    # --- batches -----------------------------------------------------------------------------------------------------

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor:
        """The windows of each example one behind another, and the characters that each token stands for."""
        assert not isinstance(split.inputs, Tensor)
        return encoder.windows(split.inputs)

    def collate(self, examples: Sequence[Mapping[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
        """A row for each window; "owner" is the example that it is of."""
        rows, owners = [], []
        for number, example in enumerate(examples):
            for window in range(int(example["window"].max()) + 1):
                inside = example["window"] == window
                rows.append({name: values[inside] for name, values in example.items()})
                owners.append(number)
        pads = {**self.padding, "low": NO_PLACE, "high": NO_PLACE, "window": NO_PLACE}
        batch = padded(rows, tokenizer, pads)
        batch["owner"] = torch.tensor(owners)
        return batch

    # --- model -------------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> int:
        """Begin and end."""
        return 2

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """For each token of all windows (n, tokens, 5): the logits of begin and end, its characters' places, its window.

        Args:
            logits: (windows, tokens, 2).
        """
        device = logits.device
        owner, window = batch["owner"].to(device), batch["window"].to(device)
        real = window != NO_PLACE
        whose = owner[:, None].expand_as(window)[real]
        counts = torch.bincount(whose)
        place = torch.arange(len(whose), device=device) - (counts.cumsum(0) - counts)[whose]
        known = torch.stack([batch[name].to(device)[real].float() for name in ("low", "high", "window")], dim=-1)
        found = torch.cat((logits.float()[real], known), dim=-1)
        out = found.new_full((len(counts), int(counts.max()), 5), float(NO_PLACE))
        return out.index_put((whose, place), found)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Each question's mean nats of begin and end of its first answer, over the tokens of all windows."""
        low, high, allowed = outputs[..., 2], outputs[..., 3], self._allowed(outputs)
        first, behind = labels[:, 0, 0, None].to(low), labels[:, 0, 1, None].to(low)
        none = (first == NO_ANSWER) & (low == NO_ANSWER)
        begins = allowed & (none | ((low <= first) & (first < high)))
        ends = allowed & (none | ((low < behind) & (behind <= high)))
        return (_nats(outputs[..., 0], begins, allowed) + _nats(outputs[..., 1], ends, allowed)) / 2

    def _allowed(self, outputs: Tensor) -> Tensor:
        """The tokens that an answer may hold, and the mark for none where there may be none."""
        low = outputs[..., 2]
        return (low >= 0) | ((low == NO_ANSWER) & self.unanswerable)

    # --- predictions -------------------------------------------------------------------------------------------------

    def _best(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(places (n, 2) of the best span, its probability (n,)): begin and end in one window, at most `LONGEST` tokens."""
        low, high, window, allowed = outputs[..., 2], outputs[..., 3], outputs[..., 4], self._allowed(outputs)
        begins, ends = (_log_share(outputs[..., k], allowed) for k in (0, 1))
        best = torch.full((len(outputs),), -math.inf)
        places = torch.full((len(outputs), 2), float(NO_ANSWER))
        for gap in range(min(LONGEST, outputs.shape[1])):
            last = outputs.shape[1] - gap
            there = allowed[:, :last] & allowed[:, gap:] & (window[:, :last] == window[:, gap:])
            there &= (low[:, :last] >= 0) & (low[:, gap:] >= 0) if gap else torch.ones_like(there)
            scores = (begins[:, :last] + ends[:, gap:]).where(there, -math.inf)
            top, at = scores.max(dim=1)
            row = torch.arange(len(outputs))
            found = torch.stack((low[row, at], high[row, at + gap]), dim=1)
            better = top > best
            best, places = top.where(better, best), found.where(better[:, None], places)
        return places.long(), best.exp()

    def predict(self, outputs: Tensor) -> Tensor:
        """The places of the best answer (n, 1, 2)."""
        return self._best(outputs)[0][:, None]

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """The answer, its probability, and its places in the context; no text where there is no answer."""
        places, share = self._best(output[None])
        first, behind = places[0].tolist()
        there = first != NO_ANSWER
        text = example[1][first:behind] if example and there else ""
        return {
            "answer": text,
            "probability": share[0].item(),
            "start": first if there else None,
            "end": behind if there else None,
        }

    # --- scores ------------------------------------------------------------------------------------------------------

    def asks(self, metric: str) -> bool:
        """All but the loss: texts are compared, not places."""
        return metric != LOSS

    def questions(self, tokenizer: Any, split: Split, split_special: bool, name: str) -> Questions:
        """Each context, and the answers that are right as a JSON list."""
        contexts = [context for _, context in split.inputs]
        right = [
            [context[a:b] for a, b in places if a >= 0] or [""]
            for context, places in zip(contexts, split.labels.tolist(), strict=True)
        ]
        return Questions([], contexts, [json.dumps(one) for one in right], set(), 0)

    def answers_in(self, outputs: Tensor, asked: Questions) -> list[str]:
        """The text of each best answer."""
        found = self.predict(outputs)[:, 0].tolist()
        return [context[max(a, 0) : max(b, 0)] for context, (a, b) in zip(asked.texts, found, strict=True)]

    def grade(self, metric: str, asked: Questions, answers: Sequence[str]) -> list[Any]:
        """Against the answer that fits best, as SQuAD's script scores."""
        pairs = [(answer, json.loads(right)) for answer, right in zip(answers, asked.references, strict=True)]
        if metric == ANSWER_F1:
            return [max(answer_f1(answer, one) for one in right) for answer, right in pairs]
        return [int(any(squad_normalised(answer) == squad_normalised(one) for one in right)) for answer, right in pairs]

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """The mean of what `grade` gave."""
        return predicted.double().mean().item()

    def held_against(self, outputs: Tensor, split: Split) -> tuple[Tensor, Tensor]:
        """1 where the answer is exact, against 1."""
        asked = self.questions(None, split, True, "")
        right = torch.tensor(self.grade(EXACT, asked, self.answers_in(outputs, asked)))
        return right.where(outputs.flatten(1).isfinite().all(dim=1), 0), torch.ones_like(right)

    def constant_error(self, train: Split, split: Split) -> float:
        """The share of questions whose answer is not the commonest one of training."""
        return 1.0 - self.constant(EXACT, train, split)

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """Not found in labels alone.

        Raises:
            InputError: always; `constant` has the contexts.
        """
        raise InputError(
            "got labels of answers without their contexts, expected splits: the commonest answer is a text"
        )

    def constant(self, metric: str, train: Split, split: Split, vocabulary: int | None = None) -> float:
        """The commonest answer of the training data, to every question; of the loss the uniform guess among a context's words."""
        if metric == LOSS:
            return -math.fsum(math.log(len(context.split())) for _, context in split.inputs) / len(split)
        known = [json.loads(one)[0] for one in self.questions(None, train, True, "").references]
        commonest = Counter(map(squad_normalised, known)).most_common(1)[0][0]
        grades = self.grade(metric, self.questions(None, split, True, ""), [commonest] * len(split))
        return math.fsum(grades) / len(grades)


def _log_share(logits: Tensor, allowed: Tensor) -> Tensor:
    return logits.masked_fill(~allowed, -math.inf).log_softmax(dim=1)


def _nats(logits: Tensor, right: Tensor, allowed: Tensor) -> Tensor:
    """-ln of the probability of the right tokens together: an answer may stand in two windows; 0 where it stands in none."""
    floor = torch.finfo(logits.dtype).min
    whole = logits.masked_fill(~allowed, floor).logsumexp(dim=1)
    part = logits.masked_fill(~right, floor).logsumexp(dim=1)
    return (whole - part).where(right.any(dim=1), 0.0)


def _labels(places: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    labels = torch.full((len(places), max(1, *map(len, places)), 2), NO_PLACE)
    for i, found in enumerate(places):
        labels[i, : max(1, len(found))] = torch.tensor(found or [(NO_ANSWER, NO_ANSWER)])
    return labels


def _places(value: Any, context: str, column: str, spot: str) -> list[tuple[int, int]]:
    """Where the answers of one row stand: SQuAD's {"text": [...], "answer_start": [...]}, or a list of {"text", "answer_start"}.

    Raises:
        InputError: neither, or an answer that is not at its offset.
    """
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        one = isinstance(texts, str)
        value = [{"text": texts, "answer_start": starts}] if one else None
        if not one and isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise InputError(
            f"{spot}: column {quoted(column)} holds no answers, expected text and answer_start, lists of equal length"
        )
    found = []
    for one in value:
        text, start = one.get("text"), one.get("answer_start")
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            raise InputError(
                f"{spot}: an answer without text or answer_start, expected both; no answer is an empty list"
            )
        if not text.strip() or start < 0 or context[start : start + len(text)] != text:
            there = context[max(start, 0) : max(start, 0) + max(len(text), 1)]
            raise InputError(
                f"{spot}: the answer {quoted(text, 40)} is not at its offset {start}, where {quoted(there, 40)} stands; expected its first "
                "character's place. Likely cause: offsets in bytes, or a context that was changed"
            )
        found.append((start, start + len(text)))
    return list(dict.fromkeys(found))
