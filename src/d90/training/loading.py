"""A finished tune, opened again: predict and evaluate from a task.d90 and the task.json beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from d90.analysis.score_interval import bootstrap_interval, effective_count, wilson_interval
from d90.display import Display
from d90.errors import InputError
from d90.files import Json
from d90.methods import load
from d90.models.model import Model
from d90.search.rules import scale_of
from d90.tasks import Task, TaskKind
from d90.tasks import load as load_task
from d90.tasks.answers import SCRIPT
from d90.tasks.metrics import LOSS, to_display
from d90.training.answers import ask
from d90.training.base import open_base
from d90.training.batches import Batches
from d90.training.device import best_device
from d90.training.evaluation import Assessment, look, predict
from d90.training.filling import fill
from d90.training.forgetting import Retained, measure_forgetting, retained
from d90.training.progress import Progress
from d90.training.record import TuneRecord, note_not_covered, read_record
from d90.training.result import Forgotten
from d90.training.writing import write

__all__ = ["Scored", "Tuned", "open_tune", "task_of"]


@dataclass(frozen=True)
class Scored(Display):
    """The metric and loss of a tune on one split of n examples, as `Tuned.evaluate` gives them."""

    task: str
    split: str
    metric: str
    score: float
    loss: float
    count: int
    metric_name: str = ""  # as it is shown: of F1 with its class
    low: float = -math.inf  # the 95 % interval of the score, by the examples
    high: float = math.inf
    perplexity: float | None = None  # of a language model: e to the loss
    independent: int = (
        0  # independent examples: fewer where several are answers to one prompt, or questions on one context
    )

    def __str__(self) -> str:
        low, high = sorted(to_display(end, self.metric) for end in (self.low, self.high))
        interval = f"(95 % interval {low:.4f} to {high:.4f}, by the examples)"
        score = "" if self.metric == LOSS else f"{self.metric_name or self.metric} {self.score:.4f} {interval}, "
        loss = f"loss {self.loss:.4f}{f' {interval}' if self.metric == LOSS else ''}"
        loss += "" if self.perplexity is None else f", perplexity {self.perplexity:.4g}"
        fewer = f" ({self.independent} independent ones)" if 0 < self.independent < self.count else ""
        return f"{score}{loss} on {self.count} {self.split} examples{fewer} of {self.task}"


class Tuned(Display):
    """A model that carries a tune, as `d90.open_tune` gives it: it predicts texts and scores splits.

    Example:
        >>> tuned = d90.open_tune(tune)
        >>> label, probability = tuned.predict([("a b a",)])[0]
        >>> label in tuned.labels
        True

    Attributes:
        model: with the tune on it.
        record: what lies beside the tune: its recipe, its task and what training gave.
    """

    def __init__(self, model: Model, record: TuneRecord, kept: Sequence[Retained] = ()) -> None:
        self.model, self.record, self._kept = model, record, kept
        self._precision = record.outcome.precision

    def __str__(self) -> str:
        metric, score = self.record.task.metric, self.record.outcome.score
        recipe = self.record.recipe
        return f"{recipe.model} on {recipe.task}, {self.record.spec.brief}: {metric} {to_display(score, metric):.4f}"

    def __repr__(self) -> str:
        return f"<Tuned: {self}>"

    @property
    def labels(self) -> list[str]:
        """The names of the classes; empty for regression."""
        return list(self.record.task.labels)

    @property
    def kind(self) -> TaskKind:
        """The kind of task it was trained for, with what it kept of the training labels."""
        return self.record.kind

    @property
    def texts(self) -> int:
        """How many texts an example has: one or two; 0 for images."""
        return self.record.task.texts

    def outputs(self, texts: Sequence[tuple[str, ...]]) -> Tensor:
        """The model's outputs (n, outputs) for texts, one or two strings an example."""
        if self.kind.generative:
            raise InputError(
                "this tune is of a language model, and predict takes classes or values; use 'd90 generate'"
            )
        self._check_texts(texts)
        return predict(self.model, Batches(self.model, self.kind.examples(texts), self.kind), self._precision)

    def _check_texts(self, texts: Sequence[tuple[str, ...]]) -> None:
        wanted = self.texts
        if wanted == 0:
            raise InputError("this tune takes images, and predict takes texts; use 'd90 evaluate' with an idx folder")
        wrong = next((i for i, text in enumerate(texts, start=1) if len(text) != wanted), None)
        if wrong is not None:
            raise InputError(f"example {wrong} has {len(texts[wrong - 1])} texts, expected {wanted} as in training")

    def describe(self, texts: Sequence[tuple[str, ...]]) -> list[Json]:
        """Each example's prediction as JSON values: the label, its probability and every class's; or the value."""
        if self.kind.fills:
            return fill(self.model, [text for (text,) in texts], self._precision)
        if self.kind.writes:
            self._check_texts(texts)
            return [{"answer": answer} for answer in write(self.model, self.kind, texts)]
        return self.kind.describe_all(self.outputs(texts), texts)

    def predict(self, texts: Sequence[tuple[str, ...]]) -> list[tuple[str, float]]:
        """(label, probability) for each example; for regression (value as text, value in the unit of the training labels)."""
        found = []
        for described in self.describe(texts):
            answer, *rest = described.values()
            value = next((one for one in (answer, *rest) if isinstance(one, float)), math.nan)
            found.append((f"{answer:.4f}" if isinstance(answer, float) else str(answer), value))
        return found

    def forgotten(self) -> tuple[Forgotten, ...]:
        """What the tune forgot, where it was opened with `forgetting` or `keep`."""
        return measure_forgetting(self.model, self._kept)

    def evaluate(self, task: str | Task | None = None, split: str = "validation", metric: str | None = None) -> Scored:
        """Score on a split of the task it was trained on, or of another with the same labels.

        Args:
            metric: another than the task's. One that is a script must be named here: what a record names is not run.

        Raises:
            InputError: no such split, other labels, or a metric of another kind of task.
        """
        loaded = task_of(self.record, task).with_metric(metric)
        if split not in loaded.splits:
            raise InputError(f"task '{loaded.name}' has no split '{split}', it has {', '.join(loaded.splits)}")
        examples, kind = loaded.splits[split], loaded.kind
        asked = ask(self.model, examples, kind) if kind.asks(loaded.metric) else None
        found = look(self.model, loaded, Batches(self.model, examples, kind), self._precision, asked)
        low, high = _interval(loaded, found, split)
        perplexity = math.exp(min(found.loss, 700.0)) if kind.generative else None
        return Scored(
            loaded.name,
            split,
            loaded.metric,
            found.score,
            found.loss,
            len(examples),
            loaded.metric_name,
            low,
            high,
            perplexity,
            loaded.independent(split),
        )


def _interval(task: Task, found: Assessment, split: str) -> tuple[float, float]:
    """The 95 % interval of a score by the independent examples it was measured on."""
    kind, metric, labels, groups = task.kind, task.metric, task.splits[split].labels, task.grouping(split)
    if scale_of(metric).proportion:
        right = None if groups is None else found.predictions.numpy()
        return wilson_interval(found.score, len(labels) if right is None else effective_count(right, groups))

    def score(rows: NDArray[Any]) -> float:
        return kind.measure(metric, found.predictions[rows], labels[rows])

    if metric == LOSS:
        losses = kind.losses(found.outputs, labels)
        return bootstrap_interval(lambda rows: -losses[rows].mean().item(), len(labels), groups=groups)
    return bootstrap_interval(score, len(labels), groups=groups)


def task_of(record: TuneRecord, task: str | Task | None = None) -> Task:
    """The task that a tune was trained on, or another, with the tune's classes and units.

    Raises:
        InputError: a task of other labels or of another kind.
    """
    recipe, kind = record.recipe, record.kind
    # only a user names a file that is run
    script = recipe.columns.get("metric", "").startswith(SCRIPT)
    columns: Mapping[str, Any] = {
        name: value for name, value in recipe.columns.items() if not (script and name == "metric")
    }
    if task is None:
        task = load_task(recipe.task, limit=recipe.train_limit, validation_limit=recipe.validation_limit, **columns)
    elif isinstance(task, str):
        task = load_task(task, **columns)
    task = task.in_order(kind.labels)
    if task.labels != kind.labels or type(task.kind) is not type(kind):
        raise InputError(
            f"task '{task.name}' is a {task.kind.name} with labels {list(task.labels)[:20]}, this tune was trained for a "
            f"{kind.name} with {list(kind.labels)[:20]}"
        )
    return replace(task, kind=kind)


def open_tune(
    path: str | os.PathLike[str], progress: Progress | None = None, *, forgetting: bool = False, keep: str | None = None
) -> Tuned:
    """Load the base model named in the recipe beside `path`, and put the tune on it.

    Example:
        >>> tuned = d90.open_tune(tune)
        >>> 0 <= tuned.evaluate().score <= 1
        True

    Args:
        progress: notes what an earlier file does not cover.
        forgetting: evaluate the base first on text it writes itself, so that `Tuned.forgotten` can say what the tune forgot.
        keep: the same on a task of texts as well, as "text:PATH".

    Raises:
        InputError: no file or no recipe beside it, a recipe of another tune, another base model, an unsound file.
    """
    record = read_record(path)
    note_not_covered(path, record, progress)
    model = open_base(record)
    model.module.to(best_device())
    kept = retained(model, keep) if forgetting or keep is not None else ()
    load(record.spec, path, model.module, record.recipe.seed)
    return Tuned(model, record, kept)
