"""What a kind of task is: how rows become examples and batches, the model that serves it, its loss, predictions and scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from d90.errors import InputError, unknown_name
from d90.files import Json
from d90.tasks.answers import Questions
from d90.tasks.columns import Columns, Table
from d90.tasks.encoded import Encoded, Encoder, Lazy
from d90.tasks.metrics import LOSS, METRICS
from d90.tasks.split import Sources, Split, numbered

__all__ = ["MIN_ASKED", "Prediction", "Reading", "Scalar", "TaskKind", "TokenIds", "padded"]

MIN_ASKED = 5

Scalar: TypeAlias = str | int | float | None
Prediction: TypeAlias = dict[str, Scalar | Sequence[Scalar | Mapping[str, Scalar]] | Mapping[str, float]]
"""One example's prediction as a person reads it, by name, the answer first: {"label": "good", "probability": 0.9}."""


class TokenIds(NamedTuple):
    """Examples that a kind has encoded itself.

    Attributes:
        ids: token ids, a list for each example.
        scored: which of them are to be predicted, in the same shape.
        truncated: how many examples were cut.
    """

    ids: list[list[int]]
    scored: list[list[bool]]
    truncated: int


@dataclass(frozen=True)
class Reading:
    """Rows as a kind reads them: the kind with what it learnt from them, the splits, and what is worth a note."""

    kind: TaskKind
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskKind(ABC):
    """One kind of task. Subclasses are frozen dataclasses, registered by name (`d90.tasks.kinds.register_kind`).

    Class attributes:
        name: as `--kind` takes it.
        stored: the word in files and fingerprints; the name unless said otherwise.
        summary: a line for lists.
        takes: "texts", "images" (tensors), or "pictures" (files).
        shown: what an example is called beside its prediction; "text_a" and "text_b" stand beside those of pairs.
        from_scratch: whether its networks are trained from scratch, at larger rates and in fp32.
        auto_class: of transformers, that loads a model for it; None where modules take the inputs as tensors.
        problem: the `problem_type` of the model's config, where it has one.
        metrics: those it can be scored by, besides the loss; the first is its own.
        classes: whether an output is a class, whose order and names a checkpoint's own head may give.
        beside: inputs of a batch that the model is not given: `outputs_of` reads them.
        padding: by an input's name what it is padded with; token ids with the tokenizer's padding, others with 0.
        filler: stands in outputs where an example has fewer than the longest.
        generative: whether the model keeps the output matrix it came with, and is asked for no number of outputs.
        hub_task: the hub's word for it, where it has one.
        peft_task: peft's `TaskType`, where it has one.
        writes: whether a prediction is a text that the model's own `generate` makes.
        pools: whether vectors are made from the model's last states.
        fills: whether hidden tokens are asked of a model that keeps its output matrix (`d90.tasks.kinds.masked`).
        extracts: whether answers are found in the model's outputs (`answers_in`).
        encoder_decoder: whether its models are encoder-decoders; None where both kinds of model serve it.
        sized: the inputs whose longest counts as an example's length.
        calibrates: whether a finished run's outputs on the validation split decide something (`calibrated`).
        right_or_wrong: whether each example is either (`held_against`), so that an error rate can be counted and bounded.
        mistake: when an example is wrong; of a kind whose examples are neither, why not.
        sources_are: what `source` gives, in the plural, as a note says it.

    Attributes:
        labels: the names of the classes, in order; empty where there are none.
    """

    name: ClassVar[str]
    stored: ClassVar[str]
    summary: ClassVar[str]
    takes: ClassVar[str] = "texts"
    shown: ClassVar[str] = "text"
    from_scratch: ClassVar[bool] = False
    auto_class: ClassVar[str | None] = "AutoModelForSequenceClassification"
    problem: ClassVar[str | None] = None
    metrics: ClassVar[tuple[str, ...]] = ()
    classes: ClassVar[bool] = False
    beside: ClassVar[tuple[str, ...]] = ()
    padding: ClassVar[Mapping[str, int]] = {}
    filler: ClassVar[float] = -1.0
    generative: ClassVar[bool] = False
    hub_task: ClassVar[str | None] = None
    peft_task: ClassVar[str | None] = None
    writes: ClassVar[bool] = False
    fills: ClassVar[bool] = False
    extracts: ClassVar[bool] = False
    pools: ClassVar[bool] = False
    encoder_decoder: ClassVar[bool | None] = None
    sized: ClassVar[tuple[str, ...]] = ("input_ids",)
    calibrates: ClassVar[bool] = False
    right_or_wrong: ClassVar[bool] = False
    mistake: ClassVar[str] = ""
    sources_are: ClassVar[str] = "prompts"

    labels: tuple[str, ...] = ()

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        """Whether a training table looks like this kind, where the user names none."""
        return False

    @classmethod
    @abstractmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        """The splits of tables; `train` is among them.

        Args:
            given: the user named the kind; else it was recognised.

        Raises:
            InputError: what is wrong in which row.
        """

    def fitted(self, train: Split) -> TaskKind:
        """The kind with what it takes from the training labels; itself where it takes nothing."""
        return self

    def check(self, task: str, train: Split, metric: str) -> None:
        """Refuse a metric or training labels that make no sense.

        Raises:
            InputError: which, and what was expected.
        """
        known = dict.fromkeys((*METRICS, *self.metrics, LOSS))
        if metric not in known:
            raise unknown_name("metric", metric, list(known))
        if metric not in (*self.metrics, LOSS):
            raise InputError(
                f"task '{task}': got metric '{metric}' for a {self.name}, expected {' or '.join((*self.metrics, LOSS))}. "
                "Likely cause: numbers taken for classes or the reverse; say which with kind"
            )

    def scored_by(self, metric: str) -> TaskKind:
        """The kind with what a metric brings along, as a script's text; itself where it brings nothing.

        Raises:
            InputError: it cannot be had.
        """
        return self

    def asks(self, metric: str) -> bool:
        """Whether a metric is of answers that the model writes (`questions`, `grade`), and not of its outputs."""
        return False

    def questions(self, tokenizer: Any, split: Split, split_special: bool, name: str) -> Questions:
        """What a split asks a model to write, for metrics of answers; arguments as those of `tokens`."""
        raise NotImplementedError(f"a {self.name} asks for no answers")

    def grade(self, metric: str, asked: Questions, answers: Sequence[str]) -> list[Any]:
        """Each answer's score from 0 to 1 by a metric of answers; integers where it is right or wrong. What `measure` takes."""
        raise NotImplementedError(f"a {self.name} asks for no answers")

    def answers_in(self, outputs: Tensor, asked: Questions) -> list[str]:
        """The answers that a model's outputs hold, of a kind that extracts them."""
        raise NotImplementedError(f"a {self.name} extracts no answers")

    @property
    def own_metric(self) -> str:
        """The metric of a task that names none."""
        return self.metrics[0] if self.metrics else LOSS

    @property
    def marks(self) -> str:
        """What of the kind's own choices a fingerprint holds, beyond name, metric and labels; empty for most."""
        return ""

    @property
    def record(self) -> Json:
        """What a finished tune keeps of the kind, as JSON; `restored` takes it."""
        return {}

    def restored(self, record: Json) -> TaskKind:
        """The kind with what a finished tune kept (`record`)."""
        return self

    def calibrated(self, outputs: Tensor, labels: Tensor) -> TaskKind:
        """The kind with what it takes from a finished run's outputs on the validation split; a tune keeps it (`record`)."""
        return self

    def renumbered(self, labels: Tensor, place: Tensor) -> Tensor:
        """A split's labels once class i has become class `place[i]`."""
        return place[labels.clamp(min=0)].where(labels >= 0, labels)

    def tokens(
        self, tokenizer: Any, inputs: Sequence[tuple[str, ...]], longest: int | None, split_special: bool, name: str
    ) -> TokenIds | None:
        """The examples as token ids, where the kind makes them; None: as texts are (`d90.models.encoding`).

        Args:
            longest: tokens that the model takes at most.
            split_special: whether what looks like a special token in a text is text.
            name: of the model, for messages.
        """
        return None

    @property
    def cut(self) -> str:
        """What is said of texts that were longer than the model takes."""
        return "were truncated"

    def texts(self, split: Split) -> int:
        """How many texts an example has: one or two; 0 for images."""
        return 0 if isinstance(split.inputs, Tensor) else len(split.inputs[0])

    def examples(self, texts: Sequence[tuple[str, ...]]) -> Split:
        """Examples without labels, of texts as a person gives them."""
        return Split(list(texts), torch.zeros(len(texts), dtype=torch.int64))

    @classmethod
    def given_texts(cls, table: Table, columns: Columns, width: int) -> list[tuple[str, ...]]:
        """The texts of a table that is to be predicted, without labels.

        Args:
            width: texts of an example in training.

        Raises:
            InputError: another number of them.
        """
        names = columns.text_names(table, labelled=False)
        if len(names) != width:
            raise InputError(
                f"{table.where}: {len(names)} text columns ({', '.join(names)}), expected {width} as in training; name them with --text"
            )
        return columns.texts(table, labelled=False)

    def unigram(self, train: Tensor, hidden: Tensor, vocabulary: int) -> float:
        """Of a kind that `fills`, the score of the tokens' frequencies."""
        raise NotImplementedError(f"a {self.name} hides no tokens")

    def source(self, example: tuple[str, ...]) -> str | None:
        """What an example asks, where those that ask the same make one independent example together; None: each is one."""
        return None

    def sources(self, split: Split) -> Sources | None:
        """What the examples of a split were drawn with; None where each is an independent example of its own."""
        if split.sources is not None or isinstance(split.inputs, Tensor) or not len(split):
            return split.sources
        names = [self.source(example) for example in split.inputs]
        known = tuple(name for name in names if name is not None)
        return Sources(known, self.sources_are) if len(known) == len(names) else None

    def shared(self, split: Split) -> str:
        """What the examples of a split share, as a note says it: "36 prompts"."""
        drawn = self.sources(split)
        return f"{len(set(drawn.names)):,} {drawn.what}" if drawn else f"{len(split):,} examples"

    def groups(self, *splits: Split) -> list[Tensor | None]:
        """Of each split which independent example each example is part of (n,), numbered as they first come; None where each is one.

        Fewer than `MIN_ASKED` different things that are asked in all splits together are conditions and no draws, as "Write a good
        review:"; then each example is one.
        """
        asked = [drawn.names for one in splits if (drawn := self.sources(one))]
        if len(asked) < len(splits) or len(set().union(*asked)) < MIN_ASKED:
            return [None] * len(splits)
        return [numbered(names) for names in asked]

    def of_images(self) -> TaskKind:
        """The kind for images where a split holds images; itself where there is none."""
        return self

    # --- batches ---------------------------------------------------------------------------------------------------

    def encode(self, encoder: Encoder, split: Split) -> Encoded | Tensor | Lazy:
        """Examples in the model's terms, once for all epochs; images as they are, or as each batch asks for them.

        Args:
            encoder: makes token ids as the model reads them.
        """
        return split.inputs if isinstance(split.inputs, Tensor) else encoder.texts(split.inputs, self)

    def collate(self, examples: Sequence[Mapping[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
        """Encoded examples as one batch (n, longest), and the "attention_mask" of what is no padding.

        Args:
            examples: integers (length,) by name, as `encode` gave them, "input_ids" among them.
        """
        return padded(examples, tokenizer, self.padding)

    # --- model -----------------------------------------------------------------------------------------------------

    def check_model(self, model: str, tokenizer: Any | None, task: str) -> None:
        """Refuse a model of images for texts, and the reverse.

        Raises:
            InputError: which of both it is.
        """
        if (self.takes == "texts") == (tokenizer is not None):
            return
        takes = "images" if tokenizer is None else "texts"
        hint = (
            "; a network of your own needs its tokenizer: d90.Model(name, net, tokenizer)" if tokenizer is None else ""
        )
        raise InputError(
            f"model '{model}' takes {takes} and task '{task}' has {self.takes}; expected them to match{hint}"
        )

    def opened_as(self, serves: Callable[[str], bool]) -> TaskKind:
        """The kind as which a model is opened for this one: itself, or another whose Auto class has a model of its architecture.

        Args:
            serves: whether an Auto class of transformers has one.
        """
        return self

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers the model puts out for an example; 0 where that is not asked of it."""

    def predicting(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """At which of a batch's tokens logits are asked, (n, tokens); None: of all the model gives."""
        return None

    def outputs_of(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What is kept of a model's logits on one batch, (n, outputs)."""
        return logits

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Each example's loss (n,), in the unit that is shown."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean over examples of `losses`."""
        return self.losses(outputs, labels).mean()

    def training_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What is minimised; times `unit` it is `loss`."""
        return self.loss(outputs, labels)

    @property
    def unit(self) -> float:
        """The loss that is shown over the one that is minimised."""
        return 1.0

    @property
    def unit_of_outputs(self) -> tuple[float, float]:
        """(mean, deviation): predictions are mean + deviation times what the model puts out."""
        return 0.0, 1.0

    def kept_losses(self, kept: Tensor, labels: Tensor) -> Tensor | None:
        """Each example's loss (n,) from what a store keeps of it (`Task.evidence`); None where that does not tell."""
        return kept if kept.is_floating_point() else None

    # --- predictions -----------------------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Predictions (n,) from the model's outputs (n, outputs), as the labels are."""

    @abstractmethod
    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> Prediction:
        """One example's output as a person reads it.

        Args:
            example: its texts, as they were given.
        """

    def describe_all(self, outputs: Tensor, texts: Sequence[tuple[str, ...]]) -> list[Prediction]:
        """What `describe` says of each of several examples that were asked for together."""
        return [self.describe(output, example) for output, example in zip(outputs, texts, strict=True)]

    def score(self, metric: str, outputs: Tensor, labels: Tensor) -> float:
        """A metric of the predictions, or minus the mean loss; larger is better."""
        return (
            -self.loss(outputs, labels).item()
            if metric == LOSS
            else self.measure(metric, self.predict(outputs), labels)
        )

    def measure(self, metric: str, predicted: Tensor, labels: Tensor) -> float:
        """A metric of predictions: by its name in `d90.tasks.metrics.METRICS`, unless the kind says otherwise."""
        return METRICS.find(metric)(predicted, labels)

    @abstractmethod
    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        """The score on `labels` of the best guess that sees no input, made from the training labels."""

    def constant(self, metric: str, train: Split, split: Split, vocabulary: int | None = None) -> float:
        """The score of that guess on a split; where it is found in the labels, `chance`."""
        return self.chance(metric, train.labels, split.labels, vocabulary)

    def held_against(self, outputs: Tensor, split: Split) -> tuple[Tensor, Tensor]:
        """(answers, labels), (n,) int64 each: an example is right where both are equal; -1 where an output is not finite."""
        kind = self.scored_by(self.own_metric)
        return kind.predict(outputs).where(outputs.isfinite().all(dim=-1), -1), split.labels

    def constant_error(self, train: Split, split: Split) -> float:
        """The share of a split's examples that the training examples' most frequent class gets wrong."""
        return (split.labels != torch.bincount(train.labels).argmax()).float().mean().item()

    def metric_name(self, metric: str) -> str:
        """A metric as it is shown: with the class it speaks of, where it speaks of one."""
        return metric


def padded(examples: Sequence[Mapping[str, Tensor]], tokenizer: Any, padding: Mapping[str, int]) -> dict[str, Tensor]:
    """Integers (length,) by name, each name padded to its longest, and the "attention_mask" of "input_ids"."""
    pad = int(getattr(tokenizer, "pad_token_id", None) or 0)
    pads = {"input_ids": pad, "decoder_input_ids": pad, **padding}
    batch = {
        name: pad_sequence([example[name] for example in examples], batch_first=True, padding_value=pads.get(name, 0))
        for name in examples[0]
    }
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch


def constant(values: Tensor, rows: int) -> Tensor:
    """The same outputs for every example: (rows, outputs)."""
    return torch.as_tensor(values).float().expand(rows, -1)
