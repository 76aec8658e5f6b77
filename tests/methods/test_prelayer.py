"""PreLayer beside a slow twin: every text alone, the blocks run one by one with their inputs laid out by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from d90.methods import Context, apply, counts, parse
from d90.models.fresh import draw
from tests.methods.table import INPUTS, MASK, bert, checkpoint_layers, gpt2, llama, loss_of
from tests.reference.inserted import INFIX, LENGTHS, PREFIX, both, decoder, padded, spread
from tests.reference.sizes import on_meta

METHOD = f"prelayer:prefix={PREFIX},infix={INFIX}"


def vectors_of(model: Any) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if name.endswith("prelayer.vectors")]


def loud(model: Any) -> None:
    """Vectors large enough to show."""
    with torch.no_grad():
        for vectors in vectors_of(model):
            vectors.mul_(20)


def slots(end: int, causal: bool, prefix: int = PREFIX, infix: int = INFIX) -> list[int]:
    at = 0 if causal else 1
    return [*range(at, at + prefix), *range(end + prefix, end + prefix + infix)]


def stack(blocks: Any, states: Tensor, places: list[int], vectors: list[Tensor], **more: Any) -> Tensor:
    """The blocks one after the other, each on inputs that hold its vectors."""
    for block, trained in zip(blocks, vectors, strict=True):
        states = states.clone()
        for place, vector in zip(places, trained, strict=True):
            states[0, place] = vector
        states = block(states, **more)
        states = states[0] if isinstance(states, tuple) else states
    return states


def gpt2_states(model: Any, ids: Tensor, end: int, vectors: list[Tensor], prefix: int, infix: int) -> Tensor:
    zeros = torch.zeros(prefix + infix, 16)
    whole, _ = spread(model.transformer.wte(ids), zeros, prefix, end, True)
    states = whole + model.transformer.wpe(torch.arange(whole.shape[1]))
    states = stack(model.transformer.h, states, slots(end, True, prefix, infix), vectors)
    return model.transformer.ln_f(states)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder(side: str) -> None:
    model, other = both(gpt2(), METHOD)
    loud(other)
    ids, mask = padded(side)
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    out = other(input_ids=ids, attention_mask=mask, position_ids=numbers).logits
    _, places = spread(torch.zeros(7, 16), torch.zeros(PREFIX + INFIX, 16), PREFIX, 7, True)
    for row, length in enumerate(LENGTHS):
        text = INPUTS[row, :length]
        _, places = spread(torch.zeros(length, 16), torch.zeros(PREFIX + INFIX, 16), PREFIX, length, True)
        states = gpt2_states(model, text, length, vectors_of(other), PREFIX, INFIX)
        expected = model.lm_head(states[0, places])
        torch.testing.assert_close(out[row][mask[row].bool()], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_that_classifies(side: str) -> None:
    model, other = both(llama(), METHOD)
    loud(other)
    ids, mask = padded(side)
    out = other(input_ids=ids, attention_mask=mask).logits
    for row, length in enumerate(LENGTHS):
        embeds = model.get_input_embeddings()(INPUTS[row, :length])
        whole, _ = spread(embeds, torch.zeros(PREFIX + INFIX, 16), PREFIX, length, True)
        turns = model.model.rotary_emb(whole, position_ids=torch.arange(whole.shape[1])[None])
        states = stack(model.model.layers, whole, slots(length, True), vectors_of(other), position_embeddings=turns)
        pooled = model.score(model.model.norm(states)[:, -1])
        torch.testing.assert_close(out[row : row + 1], pooled, rtol=1e-5, atol=1e-6)


def test_an_encoder() -> None:
    model, other = both(bert(), METHOD)
    loud(other)
    out = other(input_ids=INPUTS * MASK, attention_mask=MASK).logits
    for row, length in enumerate(LENGTHS):
        words = model.bert.embeddings.word_embeddings(INPUTS[row, :length])
        whole, _ = spread(words, torch.zeros(PREFIX + INFIX, 16), PREFIX, length, False)
        states = stack(
            model.bert.encoder.layer,
            model.bert.embeddings(inputs_embeds=whole),
            slots(length, False),
            vectors_of(other),
        )
        expected = model.classifier(model.bert.pooler(states))
        torch.testing.assert_close(out[row : row + 1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("prefix", "infix"), [(3, 2), (4, 0), (0, 2)])
def test_generate_puts_the_positions_in_once(prefix: int, infix: int) -> None:
    model, other = both(decoder("gpt2"), f"prelayer:prefix={prefix},infix={infix}")
    loud(other)
    ids, mask = padded("left")
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        found = other.generate(ids, attention_mask=mask, **options)[:, -6:]
        plain = model.generate(ids, attention_mask=mask, **options)[:, -6:]
        for row, length in enumerate(LENGTHS):
            tokens = INPUTS[row, :length].tolist()
            for _ in range(6):
                states = gpt2_states(model, torch.tensor(tokens), length, vectors_of(other), prefix, infix)
                tokens.append(int(model.lm_head(states[0, -1]).argmax()))
            assert found[row].tolist() == tokens[-6:]
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("make", [bert, gpt2, llama])
@pytest.mark.parametrize("space", ["", "@d=20"])
def test_every_vector_has_a_gradient_and_checkpointing_the_same(make: Any, space: str) -> None:
    grads = []
    for checkpointing in (False, True):
        model: Any = make()
        applied_method = apply(parse(METHOD + space), model, 3)
        model.train()
        if checkpointing:
            checkpoint_layers(model)
        torch.manual_seed(0)  # dropout
        loss_of(model).backward()
        loss_of(model).backward()
        grads.append([p.grad.clone() for p in applied_method.trained.parameters() if p.grad is not None])
        assert len(grads[-1]) == len(list(applied_method.trained.parameters()))
        if not space:
            moved = torch.stack([vectors.grad.abs().sum(1) > 0 for vectors in vectors_of(model)])
            if make is llama:  # nothing follows the infix of a classifier: what is below the last layer is replaced
                assert not moved[:-1, PREFIX:].any()
                moved[:-1, PREFIX:] = True
            assert moved.all()
    torch.testing.assert_close(*grads)


def test_names_stay_inside_their_blocks_and_weights_come_from_our_own_stream() -> None:
    model: Any = bert()
    state = torch.random.get_rng_state()
    parse(METHOD).method.apply(model, Context(seed=9))
    assert torch.equal(torch.random.get_rng_state(), state)
    names = [name for name, _ in model.named_parameters() if "prelayer" in name]
    assert names == [f"bert.encoder.layer.{i}.prelayer.vectors" for i in (0, 1)]
    drawn = draw("prelayer:bert.encoder.layer.1", torch.Size((PREFIX + INFIX, 16)), 9) * model.config.initializer_range
    assert torch.equal(model.bert.encoder.layer[1].prelayer.vectors, drawn)


def test_a_layer_scale_of_said_for_each_block() -> None:
    applied_method = apply(parse("prelayer:prefix=2@d=20,structure=said"), llama(), 3)
    assert applied_method.trained.m == 4  # type: ignore[attr-defined]  # three blocks and the head


def test_a_deep_copy_is_its_own() -> None:
    _, other = both(gpt2(), METHOD)
    again = copy.deepcopy(other)
    before = again(input_ids=INPUTS).logits
    loud(other)
    other(input_ids=INPUTS[:2, :4])
    assert torch.equal(again(input_ids=INPUTS).logits, before)
    assert not torch.equal(other(input_ids=INPUTS).logits, before)


@pytest.mark.parametrize(
    ("model", "L", "d"), [("GPT-3", 96, 12288), ("RoBERTa-base", 12, 768), ("RoBERTa-large", 24, 1024)]
)
def test_counts_are_the_papers(model: str, L: int, d: int) -> None:
    for prefix, infix in ((8, 8), (32, 0)):
        spec = parse(f"prelayer:prefix={prefix},infix={infix}")
        found = counts(spec, spec.method.apply(on_meta(model)))
        assert found.moved == found.trained == found.stored == found.added == L * d * (prefix + infix)
