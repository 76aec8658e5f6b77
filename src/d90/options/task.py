"""How a task's data is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from d90.options.base import Options, at_least, option

__all__ = ["COLUMN_OPTIONS", "LossOn", "TaskFields", "TaskOptions"]

LossOn = Literal["completions", "all"]
COLUMN_OPTIONS = (
    *("text", "label", "metric", "kind", "positive"),
    *("prompt", "completion", "chat_template", "loss_on", "group"),
)  # as `d90.tasks.load` takes them


@dataclass(frozen=True, kw_only=True, repr=False)
class TaskOptions(Options):
    """How a task's data is read; part of every trial's key.

        d90.train("minilm", "reviews.csv", data=d90.TaskOptions(text="review", label="stars"))
        d90.train("minilm", "reviews.csv", text="review", label="stars")      # the same

    Example:
        >>> d90.TaskOptions(text="review", label="stars").columns
        {'text': 'review', 'label': 'stars'}

    Attributes:
        text: the text column, or two joined by a comma.
        label: the label column.
        metric: what scores the task ("accuracy", "f1", "loss", "exact", "script:FILE", ...); the task's own by default.
        kind: a kind of task ("classification", "regression", "language", ...); guessed from the columns by default.
        positive: the class that the metric f1 is of; the rarer of two by default.
        prompt, completion: the columns of instruction data.
        chat_template: a file with a chat template in place of the tokenizer's own.
        loss_on: "completions" or "all": what counts of instruction data.
        group: a column; rows of one value are one independent example together, as pictures of one patient. Prompts, contexts and
            passages are found without it.
        train_limit, validation_limit: take the first examples alone.
        max_length: tokens of a text; longer ones are cut.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    text: str | None = option(None, "Text column, or two joined by a comma.")
    label: str | None = option(None, "Label column.")
    metric: str | None = option(
        None,
        "accuracy, f1, matthews, pearson, spearman or loss; of a language model's answers exact, contains, bleu or script:FILE; the task's "
        "own by default.",
    )
    kind: str | None = option(
        None, "A kind of task, as tokens or seq2seq (d90 tasks lists them); guessed from the columns by default."
    )
    positive: str | None = option(None, "The class that --metric f1 is of; the rarer of two by default.")
    prompt: str | None = option(None, "The column of prompts, of instruction data.")
    completion: str | None = option(None, "The column of what is to follow a prompt.")
    chat_template: str | None = option(None, "A file with a chat template in place of the tokenizer's own.")
    loss_on: LossOn | None = option(
        None, "completions or all: what counts of instruction data; completions by default."
    )
    group: str | None = option(
        None, "A column: rows of one value are one independent example together, as pictures of one patient."
    )
    train_limit: int | None = option(None, "Train on the first N examples.", limit=at_least(1))
    validation_limit: int | None = option(None, "Evaluate on the first N examples.", limit=at_least(1))
    max_length: int | None = option(None, "Cut texts to N tokens.", limit=at_least(1))

    @property
    def columns(self) -> dict[str, str]:
        """What was given of the columns, as `d90.tasks.load` takes it and recipes store it."""
        found = {name: getattr(self, name) for name in COLUMN_OPTIONS}
        return {name: value for name, value in found.items() if value is not None}


class TaskFields(TypedDict, total=False):
    """The fields of `TaskOptions`, as keywords of a function."""

    text: str | None
    label: str | None
    metric: str | None
    kind: str | None
    positive: str | None
    prompt: str | None
    completion: str | None
    chat_template: str | None
    loss_on: LossOn | None
    group: str | None
    train_limit: int | None
    validation_limit: int | None
    max_length: int | None
