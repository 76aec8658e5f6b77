"""What a model is to d90: a network with what encodes its inputs, which of its weights are fresh, and a fingerprint."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from d90.errors import InputError
from d90.models.fingerprint import tokenizer_digest
from d90.models.pictures import processor_digest
from d90.subspace import layout
from d90.subspace.fingerprint import Base, base_of, note_tokenizer

SHORT = 512  # tokens

__all__ = ["Model", "as_model", "name_of", "positions"]


@dataclass
class Model:
    """A network ready for a task: one that `d90.models.loading.load` opened, or your own.

        d90.train(d90.Model("my-cnn", net), task)                                  # or d90.train(net, task)
        d90.train(d90.Model("my-bert", net, tokenizer, max_length=128), task)

    A network of your own takes a batch of images (n, channels, height, width), or token ids and a mask as transformers' models
    do, and gives (n, outputs) or an object with `logits`.

    Example:
        >>> mine = d90.Model("my-network", network)
        >>> d90.train(mine, task, epochs=1).recipe.model
        'my-network'

    Attributes:
        name: as given; trials are told apart by the fingerprint too, so two networks may share a name.
        module: the network.
        tokenizer: of a text model; None for images.
        processor: what prepares pictures for a model that takes them; None for others, and for a network that takes plain pixels.
        fresh: names of the parameters that come from no checkpoint; drawn from the stream "init" with `seed`. Of a pretrained
            model they train with the head under every method.
        max_length: tokens it takes at most.
        seed: of the fresh weights.
        vocabulary: of a causal language model: among how many tokens it chooses; None for others.
        base: the four parts of its fingerprint, of the weights that do come from a checkpoint; taken from the module as it
            is when it is not given.
        earlier: the fingerprint that trials stored before these four parts carry; empty for a model they cannot have.
        labels: the names that the checkpoint gives the classes of the head it came with; empty for a fresh head.
        split_special: whether what looks like a special token in a text is text; False as d90's first tunes were trained.
        separator: the token put between the two texts of a pair, where the tokenizer itself puts nothing.
        notes: what to know about this model, a line each; shown before training and recorded.
        changes, head_changes: what is trained otherwise than d90's first trials did, under any method, and where the method alone
            decides what of the head moves; part of a trial's key.
        long_attention: the implementation of attention for texts longer than `SHORT`, where d90 chooses; "" leaves it alone.
        pooling: how vectors are made from a text's states (`d90.tasks.kinds.embeddings.POOLINGS`).
        longest_seen: tokens of the longest text encoded so far.
    """

    name: str
    module: nn.Module
    tokenizer: Any | None = None
    fresh: tuple[str, ...] = ()
    max_length: int | None = None
    seed: int = 0
    vocabulary: int | None = None
    base: Base = None  # type: ignore[assignment]
    earlier: str = ""
    labels: tuple[str, ...] = ()
    separator: int | None = None
    split_special: bool = True
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    head_changes: tuple[str, ...] = ()
    long_attention: str = ""
    longest_seen: int = 0
    processor: Any | None = None
    pooling: str = "mean"

    def __post_init__(self) -> None:
        self.module = layout.uncompiled(self.module)
        if any(nn.parameter.is_lazy(parameter) for parameter in self.module.parameters()):
            raise InputError(
                f"model '{self.name}' has lazy layers without weights yet, expected their shapes; call it once on a batch"
            )
        reader = tokenizer_digest(self.tokenizer) if self.processor is None else processor_digest(self.processor)
        note_tokenizer(self.module, reader)
        if self.base is None:
            self.base = base_of(self.module, without=self.fresh)

    def choose_attention(self, longest: int) -> None:
        """Attention for texts of up to `longest` tokens: on processors eager for short ones, the loader's own for others.

        With dropout or a mask torch's fused attention takes a slow way on processors: bf16 steps are 1.9 times longer
        (benchmarks/switches.py). Eager attention holds all scores, which short texts can afford.
        """
        if not self.long_attention or torch.cuda.is_available():
            return
        self.longest_seen = max(self.longest_seen, longest)
        wanted = "eager" if self.longest_seen <= SHORT else self.long_attention
        module: Any = self.module
        if module.config._attn_implementation != wanted:
            with contextlib.suppress(ValueError):
                module.set_attn_implementation(wanted)

    @property
    def fingerprint(self) -> str:
        """The base's digest: what a trial's key and a tune are tied to; two networks under one name share no trial."""
        return self.base.digest

    @property
    def inputs(self) -> set[str]:
        """The names of what a transformer's forward pass takes; empty for a network that does not say `input_ids`."""
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found = inspect.signature(self.module.forward).parameters.values()
        names = {parameter.name for parameter in found if parameter.kind in kinds}
        return names if "input_ids" in names else set()

    @property
    def rows(self) -> int | None:
        """How many token ids the embedding has; None for a model without one."""
        try:
            embedding = self.module.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):
            return None
        weight = getattr(embedding, "weight", None)
        return len(weight) if isinstance(weight, torch.Tensor) and weight.dim() == 2 else None


def as_model(model: str | Model | nn.Module) -> str | Model:
    """A bare network as a `Model` under its class's name; names and models as they are."""
    return Model(name_of(model), model) if isinstance(model, nn.Module) else model


def name_of(model: str | Model | nn.Module) -> str:
    """What a recipe calls a model."""
    if isinstance(model, str):
        return model
    return type(layout.uncompiled(model)).__name__ if isinstance(model, nn.Module) else model.name


def positions(module: nn.Module) -> tuple[int | None, int]:
    """(positions that the model takes, None for any number; the number of the first).

    RoBERTa's kind numbers them from behind the padding's row of its position table, so the table's first rows are no positions.
    """
    config: Any = module.config
    nested = config.get_text_config() if hasattr(config, "get_text_config") else config
    table = getattr(nested, "max_position_embeddings", None)
    for name, part in module.named_modules():
        padding, weight = getattr(part, "padding_idx", None), getattr(part, "weight", None)
        if name.rpartition(".")[2] in _TABLES and padding is not None and weight is not None:
            return len(weight) - padding - 1, padding + 1
    return (table if isinstance(table, int) and table > 0 else None), 0


_TABLES = ("position_embeddings", "embed_positions", "wpe", "position_embedding")
