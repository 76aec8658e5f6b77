"""Trained positions in front of the text and behind it: what PreEmbed and PreLayer share.

    [padding] x_1 ... x_n [padding]    becomes    [padding] p_1 ... p_{l_p} x_1 ... x_n i_1 ... i_{l_i} [padding]

The prefix stands in front of a decoder's text, and right behind an encoder's first token, so that pooling on [CLS]
stays right. The infix stands behind the prompt: behind the last real token or, where a causal language model is given
labels, behind the last token before those that are predicted (labels other than -100).

The transformer under the head is lengthened and what it gives is cut back to the caller's positions: head, labels,
loss and pooling are the base's own and see the text alone. In a causal model the last infix position answers for the
token it stands behind: there the next token is predicted, and there a classifier pools. With a cache, as in
`generate`, the positions are put in by the first pass and only counted by the later ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.methods.base import Applied
from d90.models.fresh import draw
from d90.models.model import positions

__all__ = [
    "InsertedPositions",
    "Place",
    "Vectors",
    "insert_positions",
    "place",
    "std_of",
    "transformer_under",
]

IGNORED = -100  # the label that no loss counts


@dataclass(frozen=True)
class Place:
    """Where everything of a batch is after lengthening; rows are examples.

    Attributes:
        source: (rows, m) which of [the caller's n | prefix | infix] stands there.
        near: (rows, m) the caller's position it is, or stands beside.
        slots: (rows, l_p + l_i) where the trained positions are.
        keep: (rows, n) what the caller gets for his positions.
    """

    source: Tensor
    near: Tensor
    slots: Tensor
    keep: Tensor

    def of(self, values: Tensor) -> Tensor:
        """(rows or 1, n) lengthened: trained positions take the value of the one they stand beside."""
        return values.expand(len(self.near), -1).gather(1, self.near)


def place(first: Tensor, last: Tensor, n: int, prefix: int, infix: int, causal: bool) -> Place:
    """Lay out rows of n positions whose text begins at `first` and whose prompt ends at `last`, both (rows,)."""
    first, gap = first[:, None], last[:, None] + 1
    at = first if causal else first + 1
    j = torch.arange(n + prefix + infix, device=first.device)[None]
    own = j - prefix * (j >= at + prefix) - infix * (j >= gap + prefix + infix)
    before, behind = (j >= at) & (j < at + prefix), (j >= gap + prefix) & (j < gap + prefix + infix)
    source = torch.where(before, n + j - at, torch.where(behind, n + j - gap, own))
    near = torch.where(before, first, torch.where(behind, gap - 1, own))
    c = torch.arange(n, device=first.device)[None]
    keep = c + prefix * (c >= at) + infix * (c >= gap)
    if causal and infix:
        keep = torch.where(c == gap - 1, gap + prefix + infix - 1, keep)
    slots = torch.cat((at + j[:, :prefix], gap + prefix + j[:, :infix]), dim=1)
    return Place(source, near, slots, keep)


class Vectors(nn.Module):
    """Trained vectors (count, width), Gaussian at the start."""

    def __init__(self, name: str, count: int, width: int, like: Tensor, std: float, seed: int) -> None:
        super().__init__()
        start = torch.empty(count, width, device=like.device, dtype=like.dtype)
        if not start.is_meta:
            start.copy_(draw(name, start.shape, seed) * std)
        self.vectors = nn.Parameter(start)


class Inputs:
    """What a transformer is called with, by name; None where it is not given. `vars` has all that is given, others too."""

    input_ids: Tensor | None = None
    inputs_embeds: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    cache_position: Tensor | None = None
    past_key_values: Any = None

    def __init__(self, given: Mapping[str, Any]) -> None:
        vars(self).update(given)

    def drop(self, name: str) -> None:
        """From here it is not given."""
        vars(self).pop(name, None)


Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""What a module is called with: (arguments, keyword arguments), as torch's hooks take and give them."""


class InsertedPositions:
    """The hooks: `before` and `after` on the transformer, `note` on the model around it.

    Args:
        method: for messages.
        model, base: the model, and the transformer under its head.
        prefix, infix: how many positions.
        embedded: what the new positions hold where the embeddings are; zeros for None.
    """

    def __init__(self, method: str, model: Any, base: Any, prefix: int, infix: int, embedded: Vectors | None) -> None:
        self.method, self.prefix, self.infix, self.embedded = method, prefix, infix, embedded
        self.causal = not model.config.is_encoder_decoder and _is_causal(model.config)
        self.limit, self.offset = positions(model)
        self.pad = getattr(model.config, "pad_token_id", None)
        self.predicts = model.get_output_embeddings() is not None
        self.names, self.outer = ([*inspect.signature(m.forward).parameters] for m in (base, model))
        self.labels: Tensor | None = None
        # Written where a pass begins and never cleared: checkpointed layers may ask for it in the backward pass.
        self.place: Place | None = None

    def note(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Labels never reach the transformer, and say where the prompt ends."""
        self.labels = {**dict(zip(self.outer, args, strict=False)), **kwargs}.get("labels")

    def before(self, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Lengthen what goes in."""
        given = Inputs({**dict(zip(self.names, args, strict=False)), **kwargs})
        labels, self.labels, self.place = self.labels, None, None
        mask, past = given.attention_mask, given.past_key_values
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            raise InputError(
                f"'{self.method}': got an attention mask that is not (examples, positions), expected 0 and 1 for each "
                "position: the new positions are put in there. Likely cause: a static cache, or a mask made by hand"
            )
        seen = 0 if past is None else int(past.get_seq_length())
        if seen:
            self._further(given, seen)
        elif given.input_ids is not None or given.inputs_embeds is not None:
            self._first(base, given, labels)
        return (), vars(given)

    def after(self, base: nn.Module, args: object, output: Any) -> Any:
        """Cut what comes out back to the caller's positions."""
        if self.place is None:
            return output
        if isinstance(output, tuple):
            return (self._cut(output[0]), *output[1:])
        output.last_hidden_state = self._cut(output.last_hidden_state)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(map(self._cut, output.hidden_states))
        return output

    def _first(self, base: Any, given: Inputs, labels: Tensor | None) -> None:
        ids, mask = given.input_ids, given.attention_mask
        given.drop("input_ids")
        embeds = given.inputs_embeds if ids is None else base.get_input_embeddings()(ids)
        assert embeds is not None
        rows, n, width = embeds.shape
        self._check(n + self.prefix + self.infix, n)
        first, last = self._ends(ids, mask, labels, torch.ones(rows, n, dtype=torch.bool, device=embeds.device))
        self.place = applied_method = place(first, last, n, self.prefix, self.infix, self.causal)
        new = embeds.new_zeros(self.prefix + self.infix, width)
        if self.embedded is not None:
            new = self.embedded.vectors.to(embeds.dtype)
        together = torch.cat((embeds, new.expand(rows, -1, -1)), dim=1)
        given.inputs_embeds = together[torch.arange(rows, device=embeds.device)[:, None], applied_method.source]
        if mask is not None:
            given.attention_mask = applied_method.of(mask).scatter(1, applied_method.slots, 1)
        if given.token_type_ids is not None:
            given.token_type_ids = applied_method.of(given.token_type_ids)
        numbers = given.position_ids
        if numbers is not None:
            if numbers.dim() != 2:
                raise InputError(
                    f"'{self.method}': got position_ids of shape {tuple(numbers.shape)}, expected two axes"
                )
            steps = torch.arange(applied_method.near.shape[1], device=embeds.device) - applied_method.near
            given.position_ids = applied_method.of(numbers) + steps
        elif self.offset and ids is not None and self.pad is not None:
            # RoBERTa's kind numbers the tokens that are not padding, which it cannot tell once it is given embeddings
            real = applied_method.of(ids.ne(self.pad).long())
            given.position_ids = real.cumsum(1) * real + self.offset - 1
        given.drop("cache_position")

    def _further(self, given: Inputs, seen: int) -> None:
        """A pass over what follows a cached one: the cache holds the positions, masks and numbers count them."""
        new, mask = self.prefix + self.infix, given.attention_mask
        tokens = given.input_ids if given.input_ids is not None else given.inputs_embeds
        assert tokens is not None
        self._check(seen + tokens.shape[1], seen + tokens.shape[1] - new)
        if mask is not None:
            first = _first_real(mask.bool())
            last = first + new - 1  # where they stand among the real ones makes no difference to a mask
            given.attention_mask = place(first, last, mask.shape[1], new, 0, causal=True).of(mask)
        if given.position_ids is not None:
            given.position_ids = given.position_ids + new
        if given.cache_position is not None:
            given.cache_position = given.cache_position + new

    def _ends(
        self, ids: Tensor | None, mask: Tensor | None, labels: Tensor | None, every: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where each row's text begins and where its prompt ends."""
        real = every if mask is None else mask.bool()
        first, last = _first_real(real), _last_real(real)
        if not self.causal:
            return first, last
        if not self.predicts and ids is not None and self.pad is not None:
            last = torch.maximum(first, _last_real(ids != self.pad))  # as decoders' classifiers look for it
        if self.predicts and labels is not None and labels.shape == real.shape:
            # the label of the first token is never predicted
            predicted = (labels != IGNORED) & (torch.arange(real.shape[1], device=real.device) > first[:, None])
            last = torch.where(predicted.any(1), _first_real(predicted) - 1, last)
        return first, last

    def _cut(self, states: Tensor) -> Tensor:
        assert self.place is not None
        return states[torch.arange(len(states), device=states.device)[:, None], self.place.keep.to(states.device)]

    def _check(self, total: int, own: int) -> None:
        if self.limit is not None and total > self.limit:
            new = self.prefix + self.infix
            raise InputError(
                f"'{self.method}': got {own} tokens, which with {new} trained positions makes {total}, expected at most "
                f"{self.limit}: the model's position table ends there. Cut texts to {self.limit - new} tokens (max_length), "
                "or lower prefix and infix"
            )


def insert_positions(
    method: str, applied: Applied, prefix: int, infix: int, embedded: Vectors | None = None
) -> InsertedPositions:
    """Put the hooks on a model, with the ways back; `transformer_under` has checked that it can be lengthened."""
    model: Any = applied.model
    base = _lengthened(model)
    inserted = InsertedPositions(method, model, base, prefix, infix, embedded)
    if base is not model:
        applied.undo.append(model.register_forward_pre_hook(inserted.note, with_kwargs=True).remove)
    applied.undo.append(base.register_forward_pre_hook(inserted.before, with_kwargs=True).remove)
    applied.undo.append(base.register_forward_hook(inserted.after).remove)
    return inserted


def transformer_under(method: str, model: Any, new: int) -> Any:
    """The transformer under the model's head, of an encoder-decoder the encoder, where it can take `new` positions more.

    Raises:
        InputError: the model does not take one text, has too few positions, or is lengthened by another method already.
    """
    parts = ", ".join(dict.fromkeys(type(module).__name__ for module in model.modules()))
    if not hasattr(model, "base_model") or not hasattr(model, "config"):
        raise InputError(
            f"'{method}' looked for a transformer of Hugging Face with token embeddings, and this model has {parts}. "
            "Choose full, bitfit, sparse, or a subspace"
        )
    base = _lengthened(model)
    if not isinstance(base.get_input_embeddings(), nn.Embedding):
        raise InputError(
            f"'{method}' looked for an encoder or a decoder of texts, with one nn.Embedding of tokens, and this model "
            f"({model.config.model_type}) has {parts[:200]}. Choose lora, adapter or bitfit"
        )
    if any(isinstance(getattr(hook, "__self__", None), InsertedPositions) for hook in base._forward_pre_hooks.values()):
        raise InputError(f"'{method}' would lengthen texts that another method lengthens; expected one of the two")
    limit = positions(model)[0]
    if limit is not None and new >= limit:
        raise InputError(
            f"'{method}': got {new} trained positions, and the model takes {limit} in all (max_position_embeddings); "
            "expected fewer, so that texts have room. Lower prefix and infix"
        )
    return base


def _lengthened(model: Any) -> Any:
    """What is lengthened: the transformer under the head; of an encoder-decoder its encoder."""
    return model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def std_of(config: Any) -> float:
    """Of the model's own embeddings at their start, 0.02 where its config does not say."""
    return float(getattr(config, "initializer_range", None) or 0.02)


def _first_real(real: Tensor) -> Tensor:
    return real.long().argmax(1)


def _last_real(real: Tensor) -> Tensor:
    return real.shape[1] - 1 - real.long().flip(1).argmax(1)


def _is_causal(config: Any) -> bool:
    from transformers.models.auto import modeling_auto

    if getattr(config, "is_decoder", False):
        return True
    predict_next = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return predict_next and config.model_type not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
