"""What a tune forgets: nats a token that the plain base loses on text it wrote itself, and on text or a task that is to be kept.

    forgets = mean over examples of (tuned nats a token - base nats a token)      its standard error: of these paired differences

The base's own text is drawn from it once, token by token at temperature 1 from its beginning of a text, by a fixed seed, and kept in
a file named by the hash of what decides it. On such text the mean is the Kullback-Leibler divergence of the tuned model from the
base, up to the sample: 0 for the base itself, and never below it but by chance. It needs no data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.analysis.score_interval import standard_error
from d90.errors import InputError
from d90.files import cache_folder, write_text
from d90.models.encoding import start_token
from d90.models.model import Model
from d90.tasks import Split
from d90.tasks import load as load_task
from d90.tasks.encoded import Encoded, Encoder
from d90.tasks.kinds.language import Language, documents
from d90.training.batches import Batches, device_of
from d90.training.evaluation import predict
from d90.training.precision import autocast, own_precision
from d90.training.result import Forgotten

__all__ = ["OWN_TEXT", "Retained", "forgetting", "losses", "measure_forgetting", "own_text", "retained"]

OWN_TEXT = "the base's own text"
COUNT, LENGTH, SEED = 64, 128, 0  # texts, tokens of each, and what they are drawn from
MAX_KEPT = 256  # examples of a task that is to be kept


@dataclass(frozen=True)
class Retained:
    """Examples whose loss should not rise.

    Attributes:
        on: what they are.
        digest: sha256 of them, its first 16 digits.
        texts: they, encoded.
        base: the plain base's losses (n,), nats a token.
        groups: which independent example each is part of (n,); None where each is one.
    """

    on: str
    digest: str
    texts: Batches
    base: Tensor
    groups: Tensor | None = None


def losses(model: Model, texts: Batches) -> Tensor:
    """Each example's nats a token (n,), in fp32, or in bf16 where the weights are held in it."""
    return texts.kind.losses(predict(model, texts, own_precision(model.module)), texts.labels)


def forgetting(model: Model, base: Tensor, texts: Batches, groups: Tensor | None = None) -> tuple[float, float]:
    """(nats a token that a tuned model loses against its base, their standard error), paired over the examples.

    Args:
        model: with the tune on it.
        base: `losses` of the plain base on the same texts.
        groups: which independent example each text is part of (n,); None where each is one.
    """
    lost = (losses(model, texts) - base).double()
    return lost.mean().item(), standard_error(lost.numpy(), None if groups is None else groups.numpy())


def measure_forgetting(model: Model, kept: Sequence[Retained]) -> tuple[Forgotten, ...]:
    """What a tuned model has forgotten of each."""
    found = ((one, forgetting(model, one.base, one.texts, one.groups)) for one in kept)
    return tuple(Forgotten(one.on, mean, error, len(one.base), one.digest) for one, (mean, error) in found)


def retained(model: Model, keep: str | None = None, folder: Path | None = None) -> list[Retained]:
    """The base's own text, and the validation split of `keep` where it is given, with the losses of the plain model.

    Args:
        model: without any tune.
        keep: "text:PATH", or any task of a causal language model.
        folder: where the base's text is kept; by default in the user's cache.

    Raises:
        InputError: a model that is no causal language model, or a task of another kind.
    """
    if model.vocabulary is None:
        raise InputError(
            f"got --forgetting for '{model.name}', which is no causal language model; expected one: what is forgotten is measured in "
            "nats a token"
        )
    own = own_text(model, folder)
    return [own] if keep is None else [own, _of_task(model, keep)]


def _of_task(model: Model, keep: str) -> Retained:
    task = load_task(keep, validation_limit=MAX_KEPT)
    if not task.kind.generative:
        raise InputError(
            f"got --keep '{keep}', a {task.kind.name}, expected text of a language model: text:PATH, lines:PATH, or conversations"
        )
    digest = hashlib.sha256(json.dumps([list(row) for row in task.validation.inputs]).encode("utf-8", "surrogatepass"))
    texts = Batches(model, task.validation, task.kind)
    return Retained(keep, digest.hexdigest()[:16], texts, losses(model, texts), task.groups("validation"))


@dataclass(frozen=True)
class _Written(Language):
    """Texts that are token ids already."""

    ids: tuple[tuple[int, ...], ...] = ()

    def encode(self, encoder: Encoder, split: Split) -> Encoded:
        return Encoded({"input_ids": [list(row) for row in self.ids]})


def own_text(model: Model, folder: Path | None = None) -> Retained:
    """`COUNT` texts of `LENGTH` tokens that the plain model writes, from `folder` where they were written before."""
    # half of a short model's positions: methods may put some of their own before a text
    length = LENGTH if model.max_length is None else max(1, min(LENGTH, model.max_length // 2))
    decided = json.dumps([model.fingerprint, COUNT, length, SEED])
    where = (folder or cache_folder() / "texts") / f"{hashlib.sha256(decided.encode()).hexdigest()[:16]}.json"
    ids = _read(where, length + 1, model.vocabulary or 0)
    if ids is None:
        ids = _drawn(model, length)
        with contextlib.suppress(OSError):  # they can be drawn again
            write_text(where, json.dumps({"base": model.fingerprint, "tokens": ids}))
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
    kind = _Written(ids=tuple(map(tuple, ids)))
    texts = Batches(model, documents([("",)] * len(ids)), kind)
    return Retained(OWN_TEXT, digest, texts, losses(model, texts))


def _read(where: Path, length: int, vocabulary: int) -> list[list[int]] | None:
    """Texts kept before; None where there are none, or others than we write."""
    try:
        ids = json.loads(where.read_text(encoding="utf-8"))["tokens"]
        sound = len(ids) == COUNT and all(
            len(row) == length and all(type(token) is int and 0 <= token < vocabulary for token in row) for row in ids
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return ids if sound else None


@torch.no_grad()
def _drawn(model: Model, length: int) -> list[list[int]]:
    """Texts token by token, from the model's own distribution, each behind the token that begins documents."""
    start = start_token(model.tokenizer)
    if start is None:
        raise InputError(
            f"the tokenizer of '{model.name}' has neither a bos nor an eos token, expected one for the model to begin a text with; "
            "name one in its tokenizer_config.json"
        )
    module: Any = model.module
    module.eval()
    device, generator = device_of(module), torch.Generator().manual_seed(SEED)
    ids = torch.full((COUNT, 1), start, dtype=torch.int64)
    cache: Any = None
    for _ in range(length):
        given = ids if cache is None else ids[:, -1:]
        options = {} if cache is None else {"past_key_values": cache}
        with autocast(module, own_precision(module)):
            found = module(input_ids=given.to(device), **options)
        cache = getattr(found, "past_key_values", None)
        logits = found if isinstance(found, Tensor) else found.logits
        shares = logits[:, -1].double().cpu().softmax(dim=-1)
        ids = torch.cat([ids, torch.multinomial(shares, 1, generator=generator)], dim=1)
    rows: list[list[int]] = ids.tolist()
    return rows
