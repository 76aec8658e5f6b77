"""PreEmbed beside a slow twin: every text alone, without padding, its embeddings laid out by hand for the bare model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.methods import Context, counts, parse
from d90.models.fresh import draw
from tests.methods.table import INPUTS, LABELS, MASK, VOCABULARY, bert, checkpoint_layers, gpt2, llama, loss_of
from tests.reference.inserted import FAMILIES, INFIX, LENGTHS, MARKS, METHOD, PREFIX, both, decoder, padded, spread
from tests.reference.sizes import SIZES, on_meta


def twin(model: Any, other: Any, row: int, causal: bool, **more: Any) -> tuple[Any, list[int]]:
    """What the bare model gives for one text of the table, laid out by hand."""
    ids = INPUTS[row, : LENGTHS[row]]
    whole, places = spread(
        model.get_input_embeddings()(ids), other.base_model.preembed.vectors, PREFIX, len(ids), causal
    )
    return model(inputs_embeds=whole, **more), places


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("given", ["ids", "embeds"])
def test_a_decoder_with_a_language_head(side: str, given: str) -> None:
    model, other = both(gpt2())
    ids, mask = padded(side)
    inputs = {"input_ids": ids} if given == "ids" else {"inputs_embeds": model.get_input_embeddings()(ids)}
    numbers = (mask.cumsum(1) - 1).clamp(min=0)  # as generate() counts; by itself GPT-2 counts padding too
    out = other(**inputs, attention_mask=mask, position_ids=numbers).logits
    assert out.shape == (4, 7, VOCABULARY)
    for row, length in enumerate(LENGTHS):
        expected, places = twin(model, other, row, causal=True)
        found = out[row][mask[row].bool()]
        torch.testing.assert_close(found, expected.logits[0, places], rtol=1e-5, atol=1e-6)
        assert len(places) == length


@pytest.mark.parametrize(("side", "mask_given"), [("right", True), ("right", False), ("left", True)])
def test_a_decoder_that_classifies_pools_at_the_last_infix_position(side: str, mask_given: bool) -> None:
    model, other = both(llama())
    ids, mask = padded(side)
    out = other(input_ids=ids, attention_mask=mask if mask_given else None).logits
    for row in range(4):
        whole, _ = spread(
            model.get_input_embeddings()(INPUTS[row, : LENGTHS[row]]),
            other.base_model.preembed.vectors,
            PREFIX,
            LENGTHS[row],
            True,
        )
        pooled = model.score(model.model(inputs_embeds=whole).last_hidden_state[:, -1])
        torch.testing.assert_close(out[row : row + 1], pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("given", ["ids", "embeds"])
def test_an_encoder_pools_at_its_first_token_and_types_go_with_their_neighbours(side: str, given: str) -> None:
    model, other = both(bert())
    ids, mask = padded(side)
    types = torch.zeros_like(ids)
    if side == "right":
        types[:, 3:] = mask[:, 3:]  # pairs: the infix belongs to the second text
        numbers = None
    else:
        ids, mask = ids[[0, 3]], mask[[0, 3]]  # BERT pools at position 0, which padding on the left would hold
        types, numbers = types[[0, 3]], torch.arange(7)[None]
    inputs = {"input_ids": ids} if given == "ids" else {"inputs_embeds": model.get_input_embeddings()(ids)}
    out = other(**inputs, attention_mask=mask, token_type_ids=types, position_ids=numbers).logits
    for found, row in zip(out, range(4) if side == "right" else (0, 3), strict=True):
        second = LENGTHS[row] - 3 + INFIX if side == "right" else 0
        hand = torch.tensor([[0] * (LENGTHS[row] + PREFIX + INFIX - second) + [1] * second])
        expected, _ = twin(model, other, row, causal=False, token_type_ids=hand)
        torch.testing.assert_close(found[None], expected.logits, rtol=1e-5, atol=1e-6)


DECODERS = ("GPT2", "Llama", "Qwen2", "Phi", "OPT", "GPTNeoX", "Bloom", "Falcon")


def family(name: str) -> Any:
    import transformers

    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    config = getattr(transformers, f"{name}Config")
    if name in ("GPT2", "DistilBert"):
        sizes = {}
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config(vocab_size=90, **{**MARKS, **sizes, **FAMILIES[name]}))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    model, other = both(family(name))
    causal = name in DECODERS
    ids, mask = padded("right")
    out = other(input_ids=ids, attention_mask=mask).last_hidden_state
    assert out.shape[:2] == ids.shape
    assert not torch.equal(out, model(input_ids=ids, attention_mask=mask).last_hidden_state)
    for row, length in enumerate(LENGTHS):
        expected, places = twin(model, other, row, causal, attention_mask=torch.ones(1, length + PREFIX + INFIX))
        torch.testing.assert_close(out[row, :length], expected.last_hidden_state[0, places], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_robertas_positions_skip_padding(side: str) -> None:
    model, other = both(family("Roberta"))
    ids, mask = padded(side)
    out = other(input_ids=ids, attention_mask=mask).last_hidden_state
    for row in range(4):
        expected, places = twin(model, other, row, causal=False)
        torch.testing.assert_close(
            out[row][mask[row].bool()], expected.last_hidden_state[0, places], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("prompt", [0, 1, 4])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_loss_counts_the_texts_labels_and_the_infix_stands_behind_the_prompt(prompt: int, side: str) -> None:
    model, other = both(gpt2())
    ids, mask = padded(side)
    labels = ids.masked_fill(mask == 0, -100)
    for row in range(4):
        # on the left the base would have padding predict the first token
        labels[row, mask[row].bool().nonzero()[: max(prompt, side == "left"), 0]] = -100
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    loss = other(input_ids=ids, attention_mask=mask, position_ids=numbers, labels=labels).loss
    total, count = torch.zeros(()), 0
    for row, length in enumerate(LENGTHS):
        text, end = INPUTS[row, :length], max(prompt, 1)
        whole, _ = spread(model.get_input_embeddings()(text), other.base_model.preembed.vectors, PREFIX, end, True)
        # labels -100 at all trained positions, and for the first token, which the base does not predict either
        hand = torch.tensor([-100] * (PREFIX + end + INFIX) + text[end:].tolist())
        logits = model(inputs_embeds=whole).logits[0]
        total = total + nn.functional.cross_entropy(logits[:-1], hand[1:], ignore_index=-100, reduction="sum")
        count += int((hand[1:] != -100).sum())
    torch.testing.assert_close(loss, total / count, rtol=1e-5, atol=1e-6)
    loss.backward()
    other_grad = other.base_model.preembed.vectors.grad.clone()
    other.base_model.preembed.vectors.grad = None
    (total / count).backward()
    torch.testing.assert_close(other_grad, other.base_model.preembed.vectors.grad, rtol=1e-4, atol=1e-6)
    assert other_grad.abs().sum(1).min() > 0, "every trained position has a gradient"


def greedy(model: Any, vectors: Tensor, prefix: int, prompt: Tensor, steps: int) -> list[int]:
    """Token by token without a cache, the prompt laid out by hand."""
    tokens = prompt.tolist()
    for _ in range(steps):
        whole, _ = spread(model.get_input_embeddings()(torch.tensor(tokens)), vectors, prefix, len(prompt), True)
        tokens.append(int(model(inputs_embeds=whole).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("given", ["ids", "embeds"])
@pytest.mark.parametrize("method", [METHOD, "preembed:prefix=4", "preembed:prefix=0,infix=2"])
def test_generate_puts_the_positions_in_once(kind: str, given: str, method: str) -> None:
    model, other = both(decoder(kind), method)
    with torch.no_grad():
        other.base_model.preembed.vectors.mul_(20)
    ids, mask = padded("left")
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    inputs = {"input_ids": ids} if given == "ids" else {"inputs_embeds": model.get_input_embeddings()(ids)}
    found = other.generate(**inputs, attention_mask=mask, return_dict_in_generate=True, **options)
    new = other.base_model.preembed.vectors.shape[0]
    assert found.past_key_values.get_seq_length() == 7 + new + 5
    prefix = parse(method).method.prefix
    for row, length in enumerate(LENGTHS):
        hand = greedy(model, other.base_model.preembed.vectors, prefix, INPUTS[row, :length], 6)
        assert found.sequences[row, -6:].tolist() == hand
    plain = model.generate(**inputs, attention_mask=mask, **options)
    assert not torch.equal(plain[:, -6:], found.sequences[:, -6:])
    beams = other.generate(**inputs, attention_mask=mask, num_beams=3, **options)
    assert beams.shape[0] == 4


def test_the_same_gradients_under_gradient_checkpointing() -> None:
    for make in (bert, gpt2, llama):
        _, plain = both(make())
        again = copy.deepcopy(plain)
        checkpoint_layers(again)
        for model in (plain, again):
            model.train()
            torch.manual_seed(0)  # dropout
            loss_of(model).backward()
            loss_of(model).backward()
        found = [one.base_model.preembed.vectors.grad for one in (plain, again)]
        assert found[0].abs().sum() > 0
        torch.testing.assert_close(*found)


def test_what_a_caller_can_ask_for_beside_the_logits() -> None:
    other = both(gpt2())[1]
    full = other(input_ids=INPUTS)
    one = other(input_ids=INPUTS, logits_to_keep=1).logits
    torch.testing.assert_close(one, full.logits[:, -1:])
    assert [h.shape[1] for h in other(input_ids=INPUTS, output_hidden_states=True).hidden_states] == [7] * 3
    torch.testing.assert_close(other(input_ids=INPUTS, return_dict=False)[0], full.logits)
    torch.testing.assert_close(other(INPUTS).logits, full.logits)
    encoder = both(bert())[1]
    torch.testing.assert_close(encoder(INPUTS, MASK).logits, encoder(input_ids=INPUTS, attention_mask=MASK).logits)
    assert encoder(input_ids=INPUTS, labels=LABELS).loss.shape == ()


def test_a_deep_copy_is_its_own() -> None:
    _, other = both(bert())
    again = copy.deepcopy(other)
    before = again(input_ids=INPUTS).logits
    with torch.no_grad():
        other.base_model.preembed.vectors.add_(torch.randn(PREFIX + INFIX, 16))
    assert torch.equal(again(input_ids=INPUTS).logits, before)
    assert not torch.equal(other(input_ids=INPUTS).logits, before)


def test_vectors_come_from_our_own_stream() -> None:
    model: Any = bert()
    model.config.initializer_range = 0.5
    state = torch.random.get_rng_state()
    parse(METHOD).method.apply(model, Context(seed=9))
    assert torch.equal(torch.random.get_rng_state(), state)
    drawn = draw("preembed:bert", torch.Size((PREFIX + INFIX, 16)), 9) * 0.5
    assert torch.equal(model.bert.preembed.vectors, drawn)


@pytest.mark.parametrize(("model", "d"), [("GPT-3", 12288), ("RoBERTa-base", 768), ("RoBERTa-large", 1024)])
def test_counts_are_the_papers(model: str, d: int) -> None:
    for prefix, infix in ((256, 8), (32, 0)):
        spec = parse(f"preembed:prefix={prefix},infix={infix}")
        found = counts(spec, spec.method.apply(on_meta(model)))
        assert found.moved == found.trained == found.stored == found.added == d * (prefix + infix)
    assert round(12288 * 264 / 1e6, 1) == 3.2  # table 4 of Hu et al. 2021
    assert SIZES["GPT-3"][1]["hidden_size"] == 12288


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("preembed:prefix=0", "got prefix=0 and infix=0, expected 0 or more each and at least one"),
        ("preembed:prefix=-1,infix=2", "got prefix=-1 and infix=2"),
        ("prelayer:infix=-1", "prelayer: got prefix=8 and infix=-1"),
        ("preembed:length=3", "unknown option of method 'preembed' 'length'"),
    ],
)
def test_what_it_cannot_be(method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(method)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_a_batch_too_long_is_refused_before_the_position_table_ends(make: Callable[[], nn.Module]) -> None:
    _, other = both(make())
    fits = torch.ones(1, 24 - PREFIX - INFIX, dtype=torch.long)
    other(input_ids=fits)
    too_long = torch.ones(1, 20, dtype=torch.long)
    with pytest.raises(
        InputError, match=r"got 20 tokens, which with 5 trained positions makes 25, expected at most 24"
    ):
        other(input_ids=too_long)


def test_generation_past_the_position_table_is_refused() -> None:
    _, other = both(gpt2())
    ids = torch.ones(1, 15, dtype=torch.long)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    other.generate(ids, max_new_tokens=5, **options)
    with pytest.raises(InputError, match=r"got 20 tokens, which with 5 trained positions makes 25.*max_length"):
        other.generate(ids, max_new_tokens=7, **options)


def test_models_that_take_no_single_text_are_refused() -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for method in ("preembed", "prelayer"):
        with pytest.raises(InputError, match="looked for an encoder or a decoder of texts"):
            parse(method).method.apply(ViTModel(ViTConfig(**sizes, image_size=4, patch_size=2)))


@pytest.mark.parametrize("method", ["preembed:prefix=3", "prelayer:prefix=3", "preembed:infix=2,prefix=0"])
def test_of_an_encoder_decoder_the_encoder_is_lengthened(method: str) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(d_model=8, d_ff=8, d_kv=8, num_layers=2, num_heads=1, vocab_size=20, decoder_start_token_id=0)
    ).eval()
    ids, seen = torch.randint(1, 20, (2, 5)), []
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    model.encoder.block[1].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    applied = parse(method).method.apply(model)
    moving = [name for name, p in model.named_parameters() if p.requires_grad]
    assert moving
    assert all(name.startswith("encoder.") for name in moving)
    out = model(input_ids=ids, attention_mask=mask, labels=ids)
    assert seen == [5 + (3 if "prefix=3" in method else 2)]
    assert out.encoder_last_hidden_state.shape[1] == 5, "the decoder sees the source's positions"
    alone = model(input_ids=ids[1:, :3], labels=ids[1:])
    torch.testing.assert_close(out.logits[1], alone.logits[0], rtol=0, atol=1e-5)
    out.loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters() if p.requires_grad)
    applied.remove()


def test_a_mask_it_cannot_extend_is_refused() -> None:
    _, other = both(gpt2())
    with pytest.raises(InputError, match="expected 0 and 1 for each position"):
        other(input_ids=INPUTS, attention_mask=torch.zeros(4, 1, 7, 7))
    with pytest.raises(InputError, match=r"position_ids of shape \(3, 4, 7\)"):
        other(input_ids=INPUTS, position_ids=torch.zeros(3, 4, 7, dtype=torch.long))
