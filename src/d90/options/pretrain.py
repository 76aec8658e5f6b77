"""What decides a pretraining run beside its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from d90.errors import InputError
from d90.options.base import Limit, Options, at_least, more_than, option

__all__ = ["HEAD", "SPECIAL_TOKENS", "PretrainFields", "PretrainOptions", "schedule"]

HEAD = 32  # width of an attention head
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTES = 256  # the alphabet of byte-level BPE


@dataclass(frozen=True, kw_only=True, repr=False)
class PretrainOptions(Options):
    """What decides a pretraining run beside its text.

    Example:
        >>> d90.PretrainOptions(layers=2).steps
        2048

    Attributes:
        layers, width: blocks and hidden size; a head for every 32 of width, a gated inner layer of 2 widths.
        vocabulary: entries of the tokenizer.
        length: tokens in a training text, and the most the model will take.
        batch_size, steps: texts in a step, and optimizer steps.
        lr: AdamW's peak rate, after a warm-up over 6 % of the steps; it falls linearly to zero.
        checkpoints: how many are kept, step 0 included: each stands at half the step of the next.
        limit: use the first `limit` lines of the text.
        seed: of weights, order and masks.

    Raises:
        InputError: which option cannot be, and what was expected.
    """

    layers: int = option(4, "Blocks.", limit=at_least(1))
    width: int = option(256, f"Hidden size, a multiple of {HEAD}.", limit=at_least(HEAD))
    vocabulary: int = option(8192, "Entries of the tokenizer.", limit=at_least(BYTES + len(SPECIAL_TOKENS)))
    length: int = option(128, "Tokens in a text.", limit=at_least(3))
    batch_size: int = option(64, "Texts in a step.", limit=at_least(1))
    steps: int = option(2048, "Optimizer steps.", limit=at_least(1))
    lr: float = option(2e-3, "AdamW's peak rate.", limit=more_than(0))
    checkpoints: int = option(8, "How many are kept: step 0, and each at half the step of the next.", limit=at_least(2))
    limit: int | None = option(None, "Use the first N lines of the text.", limit=at_least(1))
    seed: int = option(
        0, "Seed of weights, order and masks.", limit=Limit("0 <= seed < 2^32", 0, 1 << 32, open_high=True)
    )

    def check(self) -> None:
        """Refuse what cannot be."""
        super().check()
        if self.width % HEAD:
            raise InputError(f"got width={self.width}, expected a multiple of {HEAD}: a head takes {HEAD}")
        schedule(self.steps, self.checkpoints)


def schedule(steps: int, checkpoints: int) -> list[int]:
    """The steps whose weights are kept: 0 and the last, and between them steps / 2^k, for pretraining moves on the scale of log(step).

    Raises:
        InputError: fewer than two checkpoints, or more than there are halvings.
    """
    if checkpoints < 2 or steps >> (checkpoints - 2) < 1:
        raise InputError(
            f"got {checkpoints} checkpoints of {steps} steps, expected between 2 and {steps.bit_length() + 1}: "
            "each is at half the step of the next"
        )
    return [0, *(steps >> k for k in range(checkpoints - 2, -1, -1))]


class PretrainFields(TypedDict, total=False):
    """The fields of `PretrainOptions`, as keywords of a function."""

    layers: int
    width: int
    vocabulary: int
    length: int
    batch_size: int
    steps: int
    lr: float
    checkpoints: int
    limit: int | None
    seed: int
