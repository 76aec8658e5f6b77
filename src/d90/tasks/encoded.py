"""Examples in a model's terms, before they are padded: what a kind of task asks a model's tokenizer for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Encoded", "Encoder", "Lazy"]


class Lazy(Protocol):
    """Inputs of a model that are made for each batch."""

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """The inputs of the examples with these numbers, (k, ...)."""


@dataclass(frozen=True)
class Encoded:
    """Lists of integers by the name of the model's input, one for each example.

    Attributes:
        features: "input_ids" among them; lists of different names may differ in length.
        truncated: how many examples were longer than the model takes.
    """

    features: dict[str, list[list[int]]]
    truncated: int = 0

    @property
    def ids(self) -> list[list[int]]:
        """Token ids."""
        return self.features["input_ids"]

    @property
    def types(self) -> list[list[int]] | None:
        """Token types, where the model takes them."""
        return self.features.get("token_type_ids")

    @property
    def scored(self) -> list[list[int]] | None:
        """Which tokens are to be predicted, where a kind of task says so."""
        return self.features.get("scored")


class Encoder(Protocol):
    """A model as it reads texts."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""

    @property
    def pooling(self) -> str:
        """How vectors are made from a text's states: "mean", "cls" (the first token's) or "lasttoken"."""

    def texts(self, inputs: Sequence[tuple[str, ...]], kind: Any = None) -> Encoded:
        """Texts or pairs of texts, cut to the model's length; a kind of task that makes token ids itself (`tokens`) does so."""

    def words(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Sentences given as words, cut to the model's length. "first" is each word's first token, -1 where it has none."""

    def targets(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Sources and targets: the source's ids, "decoder_input_ids", and "target", what the decoder gives for each of these."""

    def windows(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Questions and contexts: each one's windows one behind another, with "low", "high" (characters) and "window" for each token."""

    def choices(self, inputs: Sequence[tuple[str, ...]]) -> Encoded:
        """Questions and their choices, one behind another, "side" for each token; of a causal model with what is "scored"."""

    def pictures(self, inputs: Sequence[tuple[str, ...]]) -> Lazy:
        """Pictures (`d90.tasks.pictures`) as the model's processor prepares them."""
