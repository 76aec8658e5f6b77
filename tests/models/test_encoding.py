"""Texts as token ids: pairs kept apart, special tokens only ours, empty texts, ids that the embedding has, token types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from d90.errors import InputError
from d90.models import loading as models
from d90.models.encoding import separator_of
from d90.models.model import Model
from d90.tasks import Split
from d90.training.batches import Batches, outputs_of
from d90.training.loop import predict
from tests.reference.tokenizer import save_tokenizer

SMALL = {"vocab_size": 7, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save(folder: Path, kind: str = "bert", marks: bool = True, **config: Any) -> Path:
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    model: Any
    if kind == "gpt2":
        sizes = {"n_positions": 12, "n_embd": 8, "n_layer": 1, "n_head": 2, "eos_token_id": 3, "pad_token_id": 3}
        model = t.GPT2ForSequenceClassification(t.GPT2Config(**({"vocab_size": 7} | sizes | config)))
    else:
        names = {"bert": "Bert", "roberta": "Roberta", "fnet": "FNet"}
        make, kinds = (getattr(t, f"{names[kind]}{tail}") for tail in ("Config", "ForSequenceClassification"))
        model = kinds(make(**(SMALL | {"max_position_embeddings": 16, "pad_token_id": 0} | config)))
    model.save_pretrained(folder)
    save_tokenizer(folder, marks=marks)
    logging.enable_progress_bar()
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Model:
    return models.load(str(save(tmp_path / "gpt2", "gpt2", marks=False)), 2)


@pytest.fixture
def bert(tmp_path: Path) -> Model:
    return models.load(str(save(tmp_path / "bert")), 2)


def test_pairs_are_kept_apart_where_the_tokenizer_glues_them(gpt2: Model) -> None:
    assert gpt2.separator == 3  # its eos token
    first, second = models.encode(gpt2, [("a b", "c"), ("a", "b c")]).ids
    assert (first, second) == ([4, 5, 3, 6], [4, 3, 5, 6])  # glued they are the same


def test_pairs_with_marks_of_their_own_are_left_alone(bert: Model) -> None:
    assert bert.separator is None
    assert models.encode(bert, [("a b", "c")]).ids == [[2, 4, 5, 3, 6, 3]]


def test_separated_pairs_are_cut_as_tokenizers_cut(gpt2: Model, bert: Model) -> None:
    """The longer text loses what is over, then both alike: as BERT's tokenizer does it with its own marks."""
    for model in (gpt2, bert):
        model.max_length = 9 if model is bert else 7
    pairs = [("a " * 9, "b"), ("a", "b " * 9), ("a " * 9, "b " * 9), ("a " * 3, "b " * 3), ("a " * 4, "b " * 3)]
    marked, separated = models.encode(bert, pairs), models.encode(gpt2, pairs)
    assert marked.truncated == separated.truncated == 4
    for one, other in zip(marked.ids, separated.ids, strict=True):
        assert one[1:-1] == other


def test_a_tokenizer_with_neither_sep_nor_eos_separates_by_its_bos_token() -> None:
    class Bare:
        sep_token_id = eos_token_id = None
        bos_token_id = 7

        def __call__(self, *texts: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) for text in texts for c in text]}

    assert separator_of(Bare()) == 7


def test_words_that_look_like_special_tokens_are_words(bert: Model) -> None:
    ids = models.encode(bert, [("a [SEP] b [PAD]",)]).ids[0]
    assert ids[0] == 2
    assert ids[-1] == 3
    assert not {0, 2, 3} & set(ids[1:-1])
    bert.split_special = False  # as d90's first tunes
    assert models.encode(bert, [("a [SEP] b",)]).ids == [[2, 4, 3, 5, 3]]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_an_empty_text_gives_the_same_alone_as_in_a_batch(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    outputs = []
    for texts in ([("",)], [("",), ("a b a c",), ("b",)]):
        split = Split(texts, torch.zeros(len(texts), dtype=torch.int64))
        outputs.append(predict(model, Batches(model, split), "fp32")[0])
    assert bool(outputs[0].isfinite().all())
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-6)


def test_an_empty_text_that_nothing_stands_for_is_refused_with_its_number(gpt2: Model) -> None:
    assert models.encode(gpt2, [("a",), (" ",)]).ids == [[4], [3]]
    gpt2.tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"example 2 has no token, .*neither a bos nor an eos token"):
        models.encode(gpt2, [("a",), ("",)])


def test_ids_above_the_embedding_are_refused_before_training(tmp_path: Path) -> None:
    small = models.load(str(save(tmp_path / "small", vocab_size=6)), 2)
    with pytest.raises(InputError, match=r"example 2 \('b c'\) has token 'c', id 6, and the embedding has 6 rows"):
        Batches(small, Split([("a",), ("b c",)], torch.tensor([0, 1])))
    padless = models.load(str(save(tmp_path / "padless")), 2)
    padless.tokenizer.add_special_tokens({"pad_token": "<new>"})
    with pytest.raises(InputError, match=r"pads with '<new>', id 7, and its embedding has 7 rows"):
        models.encode(padless, [("a",)])


def test_token_types_above_the_models_are_dropped(tmp_path: Path) -> None:
    roberta = models.load(str(save(tmp_path / "roberta", "roberta", type_vocab_size=1, pad_token_id=1)), 2)
    assert models.encode(roberta, [("a", "b")]).types is None
    batches = Batches(roberta, Split([("a", "b")], torch.tensor([0])))
    assert outputs_of(roberta.module, batches.inputs(torch.tensor([0]))).shape == (1, 2)
    two = models.load(str(save(tmp_path / "two", "roberta", type_vocab_size=2, pad_token_id=1)), 2)
    assert models.encode(two, [("a", "b")]).types == [[0, 0, 0, 1, 1]]


def test_a_model_without_a_mask_gets_none(tmp_path: Path) -> None:
    model = models.load(str(save(tmp_path, "fnet", type_vocab_size=2, tpu_short_seq_length=16)), 2)
    batch = Batches(model, Split([("a b",), ("a",)], torch.tensor([0, 1]))).inputs(torch.tensor([0, 1]))
    assert set(batch) == {"input_ids", "token_type_ids"}
    assert outputs_of(model.module, batch).shape == (2, 2)
