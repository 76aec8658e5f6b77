"""Answers of a causal language model: greedy, in batches padded on the left, stopped at the end of a turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from d90.errors import InputError
from d90.models.encoding import encode
from d90.models.model import Model
from d90.tasks.conversations import Conversation, Message
from d90.tasks.kinds import Instruction
from d90.training.batches import device_of
from d90.training.precision import autocast, own_precision
from d90.training.writing import write

if TYPE_CHECKING:
    from d90.training.loading import Tuned

__all__ = ["answer", "chat", "generate"]


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    limit: int,
    ends: Collection[int],
    size: int = 16,
    streamer: Any = None,
) -> list[str]:
    """What the model writes behind each prompt, without special tokens, in the order of the prompts.

    Args:
        prompts: token ids.
        limit: new tokens at most.
        ends: tokens that end an answer.
        size: prompts in a batch.
        streamer: of transformers, is given each token as it is made, of one prompt.

    Raises:
        InputError: a prompt that leaves no room for an answer, or a model that cannot generate.
    """
    module: Any = model.module
    tokenizer: Any = model.tokenizer
    if not callable(getattr(module, "generate", None)):
        raise InputError(f"model '{model.name}' cannot generate, expected a causal language model of transformers")
    long = next((i for i, ids in enumerate(prompts) if model.max_length and len(ids) >= model.max_length), None)
    if long is not None:
        raise InputError(
            f"prompt {long + 1} has {len(prompts[long])} tokens and '{model.name}' takes {model.max_length}, expected room for an "
            "answer; shorten it"
        )
    pad = next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    module.eval()
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        longest = max(len(prompts[i]) for i in chosen)
        rows = [[pad] * (longest - len(prompts[i])) + list(prompts[i]) for i in chosen]
        mask = [[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen]
        device = device_of(module)
        room = limit if model.max_length is None else min(limit, model.max_length - longest)
        with autocast(module, own_precision(module)):
            found = module.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=room,
                do_sample=False,
                num_beams=1,
                pad_token_id=pad,
                eos_token_id=sorted(ends) or None,
                streamer=streamer,
            )
        for i, ids in zip(chosen, found[:, longest:].tolist(), strict=True):
            stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            answers[i] = tokenizer.decode(ids[:stop], skip_special_tokens=True)
    return answers


def answer(tune: Tuned, prompts: Sequence[str], limit: int) -> list[str]:
    """What a tune of a language model writes to each prompt, asked as its training data asked.

    Raises:
        InputError: a tune of another kind, or a prompt that cannot be encoded.
    """
    model, kind = tune.model, tune.kind
    if isinstance(kind, Instruction):
        renderer = kind.renderer(model.tokenizer, model.split_special, model.name)
        ids = [renderer.prompt(kind.prompt(text), number) for number, text in enumerate(prompts, start=1)]
        return generate(model, ids, limit, renderer.ends(kind.plain))
    if kind.writes:
        return write(model, kind, [(text,) for text in prompts], limit)
    if not kind.generative:
        raise InputError(f"this tune is of a {kind.name}, expected a language model's; use 'd90 predict'")
    eos = getattr(model.tokenizer, "eos_token_id", None)
    return generate(model, encode(model, [(text,) for text in prompts]).ids, limit, [] if eos is None else [eos])


def chat(tune: Tuned, turns: Iterable[str], limit: int, say: Callable[[str], None]) -> list[Message]:
    """A conversation with a tune: each turn is answered with all turns before it, and said piece by piece as it is written.

    Args:
        turns: what the user says, one after the other.
        limit: new tokens of an answer at most.
        say: is given each piece of an answer as soon as it is there, and a line's end behind it.

    Returns:
        The turns of both.

    Raises:
        InputError: a tune of another kind or of plain prompts, or a conversation longer than the model takes.
    """
    from transformers import TextStreamer

    model, kind = tune.model, tune.kind
    if not isinstance(kind, Instruction) or kind.plain:
        raise InputError(
            "this tune was not trained on conversations, expected one that was for --chat; give prompts to 'd90 generate'"
        )
    renderer = kind.renderer(model.tokenizer, model.split_special, model.name)
    ends, held = renderer.ends(), list[Message]()

    class Said(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            say(text + ("\n" if stream_end else ""))

    for number, turn in enumerate(turns, start=1):
        held.append(Message("user", turn))
        ids = renderer.prompt(Conversation((*held, Message("assistant", "")), first=len(held)), number)
        said = Said(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
        held.append(Message("assistant", generate(model, [ids], limit, ends, streamer=said)[0]))
    return held
