"""A model looked at: its outputs on a split, and what they are worth.

Metrics of answers are of what the model writes (`d90.training.answers`); every other is of its outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from d90.models.model import Model
from d90.tasks import Task
from d90.tasks.answers import Questions
from d90.training.answers import score_answers
from d90.training.batches import Batches, device_of, outputs_of
from d90.training.precision import autocast

if TYPE_CHECKING:
    from d90.training.data import Data

__all__ = ["Assessment", "assess", "evaluate", "look", "predict", "rows_looked_at", "rows_of_logits"]

ROWS = 128  # in an evaluated batch
TEXT_ROWS = 16  # of texts on a processor: what a layer makes then stays in its caches (benchmarks/README.md)
MAX_TOKENS = 1 << 14  # in an evaluated batch of windows
MAX_LOGITS = 1 << 26  # numbers in an evaluated batch of a language model


@dataclass(frozen=True)
class Assessment:
    """What a look at a split gives.

    Attributes:
        score: by the task's metric; larger is better.
        loss: the mean over examples.
        predictions: (n,) as a store keeps them; of a metric of answers each answer's score.
        outputs: (n, outputs), what the kind of task keeps of the model's logits.
    """

    score: float
    loss: float
    predictions: Tensor
    outputs: Tensor


def assess(data: Data, split: str, precision: str) -> Assessment:
    """Look at one split that `data` holds encoded."""
    asked = data.questions(split) if data.task.kind.asks(data.task.metric) else None
    return look(data.model, data.task, data.split(split), precision, asked)


def look(model: Model, task: Task, batches: Batches, precision: str, asked: Questions | None = None) -> Assessment:
    """Look at examples.

    Args:
        batches: they, encoded.
        asked: where the task's metric is of answers, what they ask (`d90.training.answers.ask`).
    """
    texts = model.tokenizer is not None
    outputs = predict(model, batches, precision, rows_looked_at(device_of(model.module).type, texts))
    loss = task.loss(outputs, batches.labels).item()
    if asked is None:
        score = task.kind.score(task.metric, outputs, batches.labels)
        return Assessment(score, loss, task.evidence(outputs, batches.labels), outputs)
    scores = score_answers(model, task.kind, task.metric, asked, outputs)
    return Assessment(task.kind.measure(task.metric, scores, batches.labels), loss, scores, outputs)


def evaluate(data: Data, split: str, precision: str) -> tuple[float, float]:
    """(score, loss) of the model on one split that `data` holds encoded."""
    found = assess(data, split, precision)
    return found.score, found.loss


def rows_looked_at(device: str, texts: bool) -> int:
    """How many examples a look evaluates at once."""
    return TEXT_ROWS if texts and device == "cpu" else ROWS


def rows_of_logits(vocabulary: int, longest: int, size: int = ROWS) -> int:
    """How many examples a language model evaluates at once: a batch has logits over the vocabulary at each token."""
    return max(1, min(size, MAX_LOGITS // (vocabulary * longest)))


@torch.no_grad()
def predict(model: Model, batches: Batches, precision: str, size: int = ROWS) -> Tensor:
    """The model's outputs (n, outputs) in the order of the examples, in fp32 on the CPU."""
    module = model.module
    if model.vocabulary is not None:
        size = rows_of_logits(model.vocabulary, int(batches.lengths.max()), size)
    if batches.kind.extracts:
        size = max(1, min(size, MAX_TOKENS // int(batches.lengths.max())))
    rows: list[Tensor] = []
    order: list[Tensor] = []
    module.eval()
    for chosen in batches.by_length(size):
        with autocast(module, precision):
            rows.append(outputs_of(module, batches.inputs(chosen), batches.kind).float().cpu())
        order.append(chosen)
    width = max(row.shape[1] for row in rows)
    out = torch.full((len(batches), width, *rows[0].shape[2:]), batches.kind.filler)
    for chosen, row in zip(order, rows, strict=True):
        out[chosen, : row.shape[1]] = row
    return out
