"""How a trial is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from d90.options.base import Limit, Options, Precision, Weights, at_least, more_than, option
from d90.options.rates import USUAL, parse_rate

__all__ = ["TrainingFields", "TrainingOptions"]


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainingOptions(Options):
    """How a run is trained; fields of every trial's `Recipe`, and so part of its key.

        d90.train("minilm", "docstrings", training=d90.TrainingOptions(epochs=1, warmup=0.1))
        d90.train("minilm", "docstrings", epochs=1, warmup=0.1)      # the same

    Example:
        >>> d90.TrainingOptions(epochs=2, lr="auto")
        TrainingOptions(lr='auto', epochs=2)

    Attributes:
        lr: Adam's learning rate; None and "default": that of the method and kind of model (`default_lr`); "auto": found by short
            runs; "usual": what the study does, "auto" for a measurement, a small grid for a comparison, "default" otherwise.
        epochs: passes over the training split.
        batch_size: examples in a batch.
        warmup: the share of all steps over which the rate rises; it then falls to 0.
        weight_decay: Adam's, on what is trained.
        clip: the largest norm of the gradient, 0 for no limit; of weights trained as they are, not of theta.
        evaluations: how many a run makes, evenly spaced over its steps, the last at its end.
        precision: "fp32", "bf16" (autocast), or "auto": bf16 where it is faster (`d90.training.precision`).
        seed: of fresh weights, the order of examples, dropout, and P unless the method names its own.
        step_rule: the version of theta's unit; None: the newest.
        until: the share of the steps after which the run ends, its schedule being that of the whole: below 1 it is a reading.
        forgetting: whether what the kept weights forget is measured (`d90.training.forgetting`), of a causal language model.
        keep: a task of texts whose loss should not rise either, as "text:PATH"; what is lost of it is then measured too.
        forget_at_most: nats a token: an evaluation that has forgotten more, of any of these texts, scores as the untrained model does.
        accumulate: the parts that each batch is worked through in, one after the other: less memory, the same step up to rounding.
        gradient_checkpointing: whether blocks compute their activations again in the backward pass: less memory, more time.
        weights: what a causal language model's weights are held in: "fp32"; "bf16", under methods that add weights of their own (kept in
            fp32) or a subspace; "4bit" (bitsandbytes, on a GPU), under methods that add weights; "auto": fp32 where weights and
            optimizer fit in half the memory, else bf16.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    lr: float | str | None = option(
        USUAL,
        "Adam's learning rate: a number; auto: found by short runs first; default: that of the method and kind of model; usual: what the "
        "command does by itself.",
    )
    epochs: float = option(3, "Passes over the training split.", limit=more_than(0))
    batch_size: int = option(32, "Examples in a batch.", limit=more_than(0))
    warmup: float = option(
        0.06,
        "Share of the steps over which the learning rate rises.",
        limit=Limit("a share of the steps, 0 <= warmup < 1", 0, 1, open_high=True),
    )
    weight_decay: float = option(
        0.0,
        "Adam's weight decay, on what is trained.",
        limit=Limit("0 or more", 0, open_high=True),
    )
    clip: float = option(
        1.0,
        "Largest norm of the gradient of weights trained as they are; 0 for no limit.",
        limit=Limit("0 or more", 0),
    )
    evaluations: int = option(6, "Evaluations in a run.", limit=more_than(0))
    precision: Precision = option("auto", "auto, fp32 or bf16.")
    seed: int = option(
        0,
        "Seed of fresh weights, order, dropout and P.",
        limit=Limit("0 <= seed < 2^64", 0, 1 << 64, open_high=True),
    )
    step_rule: int | None = option(
        None, "Version of theta's unit; 1 repeats what d90 did at scales global and relative."
    )
    until: float = option(
        1.0,
        "Share of the steps after which a run ends.",
        limit=Limit("a share of the steps, 0 < until <= 1", 0, 1, open_low=True),
        shown=False,
        later=True,
    )
    forgetting: bool = option(
        False, "Measure what a language model's tune forgets: nats a token of text the base writes itself.", later=True
    )
    keep: str | None = option(None, "Measure it on this task's text too, as text:PATH.", later=True)
    forget_at_most: float | None = option(
        None,
        "An evaluation that has forgotten more nats a token than this counts as the untrained model's.",
        limit=Limit("nats a token, as in 0.05", 0, math.inf, open_high=True),
        later=True,
    )

    accumulate: int = option(
        1, "Parts that each batch is worked through in: less memory, the same step.", limit=at_least(1), later=True
    )
    gradient_checkpointing: bool = option(
        False, "Compute activations again in the backward pass: less memory, more time.", later=True
    )
    weights: Weights = option(
        "auto",
        "What a language model's weights are held in: auto, fp32, bf16 or 4bit (a GPU and bitsandbytes).",
        later=True,
    )

    def check(self) -> None:
        """Refuse what cannot be."""
        super().check()
        parse_rate(self.lr)


class TrainingFields(TypedDict, total=False):
    """The fields of `TrainingOptions`, as keywords of a function."""

    lr: float | str | None
    epochs: float
    batch_size: int
    warmup: float
    weight_decay: float
    clip: float
    evaluations: int
    precision: Precision
    seed: int
    step_rule: int | None
    until: float
    forgetting: bool
    keep: str | None
    forget_at_most: float | None
    accumulate: int
    gradient_checkpointing: bool
    weights: Weights
