"""What a checkpoint lacks: drawn from our bits, trained with the head under every method, stored and exported by its exact names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.integrations.convert import convert
from d90.integrations.merge import merge
from d90.methods import Context, counts, parse
from d90.models import loading as models
from d90.subspace import layout
from d90.tasks import Split
from d90.training.batches import Batches
from d90.training.loading import open_tune
from d90.training.loop import predict
from d90.training.record import save_pair, sealed
from d90.training.run import Run
from tests.reference.tiny import tiny_task
from tests.reference.tokenizer import save_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SMALL = {"vocab_size": 7, "pad_token_id": 0}
BERT = {
    **SMALL,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}


def save(kind: str, folder: Path) -> Path:
    """A checkpoint that lacks more than what is called a head."""
    import transformers as t
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    model: Any
    if kind == "distilbert":
        model = t.DistilBertModel(
            t.DistilBertConfig(**SMALL, dim=8, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=16)
        )
    elif kind == "bert-mlm":
        model = t.BertForMaskedLM(t.BertConfig(**BERT))
    elif kind == "deberta":
        model = t.DebertaV2Model(t.DebertaV2Config(**BERT))
    else:
        model = t.XLMModel(
            t.XLMConfig(vocab_size=7, emb_dim=8, n_layers=1, n_heads=2, pad_index=0, max_position_embeddings=16)
        )
    model.save_pretrained(folder)
    save_tokenizer(folder, marks=True)
    logging.enable_progress_bar()
    return folder


FRESH = {
    "distilbert": {"pre_classifier", "classifier"},
    "bert-mlm": {"bert.pooler.dense", "classifier"},
    "deberta": {"pooler.dense", "classifier"},
    "xlm": {"sequence_summary.summary"},
}
METHODS = (
    "lora:r=2",
    "bitfit",
    "top:n=1",
    "pafi:fraction=0.1",
    "hiwi:r=2,on=weight",
    "adapter:r=2",
    "preembed:prefix=2",
)


@pytest.mark.parametrize("kind", FRESH)
def test_fresh_layers_move_under_every_method(kind: str, tmp_path: Path) -> None:
    model = models.load(str(save(kind, tmp_path)), 2)
    fresh = {name for name in model.fresh if name.rpartition(".")[0] in FRESH[kind]}
    assert {name.rpartition(".")[0] for name in model.fresh} == FRESH[kind]
    assert any("trains with the head" in note for note in model.notes)
    tried = 0
    for text in METHODS:
        spec = parse(text)
        if kind == "xlm" and text.partition(":")[0] in ("lora", "top", "hiwi", "adapter"):
            continue  # its blocks are several lists, side by side
        applied = spec.method.apply(model.module, Context())
        moved = {name for name, p in model.module.named_parameters() if p.requires_grad}
        assert set(layout.fresh_tensors(model.module, moved)) >= fresh, text
        assert counts(spec, applied).head >= sum(model.module.get_parameter(name).numel() for name in fresh)
        applied.remove()
        tried += 1
    assert tried > 2
    space = d90.Subspace(model.module, 5, head="outside")
    trained = {id(parameter) for parameter in space.parameters()}
    assert all(id(model.module.get_parameter(name)) in trained for name in fresh)
    space.release()


def test_a_body_with_a_named_head_is_as_it_was(tmp_path: Path) -> None:
    import transformers as t

    t.BertModel(t.BertConfig(**BERT)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, marks=True)
    model = models.load(str(tmp_path), 2)
    assert (model.fresh, model.head_changes, model.changes) == (("classifier.weight", "classifier.bias"), (), ())


def run_on(folder: Path, method: str) -> Run:
    if not (folder / "base").exists():
        save("distilbert", folder / "base")
        tiny_task(folder / "data")
    options = {"epochs": 2, "batch_size": 8, "evaluations": 2, "lr": 0.02, "max_length": 8, "precision": "fp32"}
    run = d90.train(str(folder / "base"), str(folder / "data"), method, **options)
    run.save(folder / "task.d90")
    return run


@pytest.mark.parametrize("method", ["lora:r=2", "lora:r=2@d=30", "bitfit", "full@d=20,head=outside"])
def test_a_tune_with_fresh_layers_opens_again_and_merges(method: str, tmp_path: Path) -> None:
    import transformers as t

    run = run_on(tmp_path, method)
    texts = [("a b a",), ("b b c",)]
    tuned = open_tune(tmp_path / "task.d90")
    mine = predict(run.model, Batches(run.model, _split(texts)), "fp32")
    torch.testing.assert_close(tuned.outputs(texts), mine, rtol=0, atol=1e-6)
    record = json.loads((tmp_path / "task.json").read_text())
    assert {"pre_classifier.weight", "classifier.bias"} <= set(record["fresh"])
    folder = merge(tmp_path / "task.d90", tmp_path / "merged")
    plain = t.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = models.encode(run.model, texts).ids
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor(ids)).logits, mine, rtol=0, atol=1e-5)


def _split(texts: list[tuple[str, ...]]) -> Split:
    return Split(texts, torch.zeros(len(texts), dtype=torch.int64))


def test_a_lora_folder_names_the_fresh_layers_exactly(tmp_path: Path) -> None:
    import transformers as t
    from peft import PeftModel

    run = run_on(tmp_path, "lora:r=2")
    found = convert(tmp_path / "task.d90", "lora", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(config["modules_to_save"]) == {"pre_classifier", "classifier"}
    assert found.before == found.after
    base = t.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    tuned = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.tensor(models.encode(run.model, [("a b a",)]).ids)
    with torch.no_grad():
        torch.testing.assert_close(tuned(ids).logits, run.model.module.eval()(ids).logits, rtol=0, atol=1e-5)


def test_a_tune_of_before_keeps_its_head(tmp_path: Path) -> None:
    """Its record says nothing of fresh layers: what is called a head moved, and nothing else."""
    save("distilbert", tmp_path / "base")
    tiny_task(tmp_path / "data")
    model = models.load(str(tmp_path / "base"), 2)
    layout.mark_called_head(model.module)
    spec = parse("lora:r=2@d=20")
    run = d90.train(model, str(tmp_path / "data"), spec, epochs=1, batch_size=8, evaluations=1, max_length=8)
    run.save(tmp_path / "old.d90")
    record = json.loads((tmp_path / "old.json").read_text())
    for key in ("fresh", "encoding", "recipe_hash"):
        del record[key]
    record["recipe"]["model"] = str(tmp_path / "base")
    save_pair(tmp_path / "old.d90", sealed(record), run.applied_method.save)
    tuned = open_tune(tmp_path / "old.d90")
    assert tuned.model.module.get_parameter("pre_classifier.weight").requires_grad is False
    assert tuned.model.module.get_parameter("classifier.weight").requires_grad


def test_the_key_of_a_trial_changes_only_where_the_head_does(tmp_path: Path) -> None:
    from d90.tasks import load
    from d90.training.recipe import Recipe, trial_key

    model = models.load(str(save("distilbert", tmp_path / "base")), 2)
    task = load(str(tiny_task(tmp_path / "data")))
    for method, same in (("full", True), ("full@d=20", True), ("full@d=20,head=outside", False), ("lora", False)):
        recipe = Recipe(model.name, task.name, method)
        assert (trial_key(recipe, task, model) == recipe.key(task.fingerprint, model.fingerprint)) == same, method
