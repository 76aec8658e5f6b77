"""Hidden tokens: which ones, what a model is asked of them, chance, tunes, and merged folders in the library's pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import merge
from d90.methods import parse
from d90.models.loading import load as load_model
from d90.tasks import Split
from d90.tasks import load as load_task
from d90.tasks.kinds import ABSENT, Masked
from d90.training.batches import Batches, outputs_of
from d90.training.data import Data
from d90.training.loading import open_tune
from tests.reference.command import run as cli
from tests.reference.families import save_family
from tests.reference.tiny import tiny_model

OPTIONS: dict[str, Any] = {"epochs": 8, "batch_size": 8, "evaluations": 2, "lr": 5e-3, "precision": "fp32"}
MASK = 1


def masked_family(family: str, folder: Path) -> Path:
    """A masked language model; its unknown token is its mask."""
    save_family(family, folder, "AutoModelForMaskedLM")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": "[UNK]"}))
    return folder


def documents(where: Path, count: int = 48) -> str:
    """a and b in turn."""
    lines = [" ".join((["a", "b"] if i % 2 else ["b", "a"]) * (2 + i % 4)) for i in range(count)]
    where.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return str(where)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, documents, and a tune of all weights."""
    path = tmp_path_factory.mktemp("masked")
    masked_family("bert", path / "bert")
    run = d90.train(str(path / "bert"), documents(path / "t.jsonl"), "full", kind="masked", **OPTIONS)
    run.save(path / "task.d90")
    run.release()
    return path


def _batches(folder: Path, texts: list[str]) -> tuple[Any, Batches]:
    model = load_model(str(folder / "bert"), 0, Masked())
    return model, Batches(model, Split([(text,) for text in texts], torch.zeros(len(texts)).long()), Masked())


def test_masks_are_fixed_to_look_and_others_at_each_step(folder: Path) -> None:
    _, batches = _batches(folder, ["a b " * 10, "c", "b a c " * 4, "a"])
    first, again, step = (batches.inputs(torch.arange(4), visit) for visit in (0, 0, 1))
    assert isinstance(first, dict)
    assert isinstance(again, dict)
    assert isinstance(step, dict)
    assert all(bool((first[name] == again[name]).all()) for name in first)
    assert bool((first["target"] != step["target"]).any())
    alone = batches.inputs(torch.tensor([2]))
    assert isinstance(alone, dict)
    length = alone["input_ids"].shape[1]
    assert alone["input_ids"][0].tolist() == first["input_ids"][2, :length].tolist(), (
        "neighbours and padding change no mask"
    )
    assert bool(((first["target"] != -100).sum(dim=1) >= 1).all()), "one at least"
    assert not bool((first["target"] == 2).any() | (first["target"] == 3).any()), "marks are never asked for"


def test_a_share_of_the_tokens_is_hidden_as_bert_hides_them(folder: Path) -> None:
    model, batches = _batches(folder, ["a b c " * 4] * 400)
    batch = batches.inputs(torch.arange(400), 7)
    assert isinstance(batch, dict)
    asked = batch["target"] != -100
    shown = batch["input_ids"][asked]
    assert asked.float().mean().item() == pytest.approx(0.15 * 12 / 14, abs=0.03)
    whole = (shown == MASK).float().mean().item()
    assert whole == pytest.approx(0.8 + 0.1 / 7, abs=0.04)
    assert (shown == batch["target"][asked]).float().mean().item() == pytest.approx(0.1 + 0.1 / 7, abs=0.04)
    untouched = batch["input_ids"][~asked]
    assert not bool((untouched == MASK).any())
    assert model.vocabulary is None, "it is no causal language model"


def test_the_loss_is_the_models_own_on_the_hidden_tokens(folder: Path) -> None:
    model, batches = _batches(folder, ["a b a b", "c c"])
    batch = batches.inputs(torch.arange(2))
    assert isinstance(batch, dict)
    module: Any = model.module.eval()
    with torch.no_grad():
        outputs = outputs_of(module, batch, Masked())
        for i in range(2):
            given = {
                name: batch[name][i : i + 1]
                for name in ("input_ids", "attention_mask", "token_type_ids")
                if name in batch
            }
            own = module(**given, labels=batch["target"][i : i + 1]).loss.item()
            assert Masked().losses(outputs, batch["target"])[i].item() == pytest.approx(own, abs=1e-5)
    assert bool(((outputs == ABSENT) == (batch["target"] == -100)).all())


def test_chance_is_how_often_a_token_stands_in_training(folder: Path) -> None:
    task = load_task(str(folder / "t.jsonl"), kind="masked")
    model = load_model(str(folder / "bert"), 0, task.kind)
    data = Data(model, task)
    tokens = data.train.tokens()
    counts = torch.bincount(tokens, minlength=7).double() + 1
    shares = (counts / counts.sum()).log()
    assert data.chance("validation") == pytest.approx((shares[4] + shares[5]).item() / 2, abs=0.05), (
        "a and b, equally often"
    )
    with pytest.raises(InputError, match="documents without their tokens"):
        task.chance()


def test_models_that_cannot_find_hidden_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"its checkpoint lacks 'cls.* expected a masked language model with its output matrix"
    ):
        load_model(str(tiny_model(tmp_path / "classifier")), 0, Masked())
    save_family("bert", tmp_path / "bare", "AutoModelForMaskedLM")
    with pytest.raises(InputError, match="has no mask token, expected one"):
        load_model(str(tmp_path / "bare"), 0, Masked())
    save_family("gpt2", tmp_path / "gpt2", "AutoModelForCausalLM")
    with pytest.raises(InputError, match="cannot serve a task of kind masked"):
        load_model(str(tmp_path / "gpt2"), 0, Masked())
    save_family("bart", tmp_path / "bart", "AutoModelForSeq2SeqLM")
    with pytest.raises(InputError, match="is an encoder-decoder, expected an encoder for a task of kind masked"):
        load_model(str(tmp_path / "bart"), 0, Masked())


@pytest.mark.parametrize("family", ["bert", "albert", "xlm", "distilbert", "electra"])
def test_the_output_matrix_is_no_head_of_the_task_whatever_it_is_called(tmp_path: Path, family: str) -> None:
    model = load_model(str(masked_family(family, tmp_path)), 0, Masked())
    applied = parse("bitfit").method.apply(model.module)
    moved = [name for name, parameter in model.module.named_parameters() if parameter.requires_grad]
    assert moved
    assert all(name.endswith("bias") for name in moved)
    applied.remove()
    assert model.notes == ()


def test_a_planted_rule_is_learnt_and_predict_fills_the_marks(folder: Path) -> None:
    record = json.loads((folder / "task.json").read_text())
    assert record["outcome"]["score"] > record["outcome"]["zero_score"] + 0.5
    tuned = open_tune(folder / "task.d90")
    assert tuned.evaluate().score == pytest.approx(record["outcome"]["score"], abs=1e-6)
    done = cli("predict", str(folder / "task.d90"), "a [UNK] a b", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    best = row["masks"][0][0]
    assert (row["answer"], row["probability"]) == (f"a {best['token']} a b", best["probability"])
    wrong = cli("predict", str(folder / "task.d90"), "a b")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "example 1 has no [UNK]" in wrong.stderr


@pytest.mark.filterwarnings("ignore:.*")
def test_a_merged_folder_fills_the_same_in_a_pipeline(folder: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    out = merge(folder / "task.d90", tmp_path / "model")
    theirs = pipeline("fill-mask", model=str(out))("a [UNK] a b")
    ours = open_tune(folder / "task.d90").describe([("a [UNK] a b",)])[0]["masks"][0]
    assert [(row["token_str"].strip(), pytest.approx(row["score"], abs=1e-5)) for row in theirs] == [
        (row["token"], row["probability"]) for row in ours
    ]


@pytest.mark.parametrize("method", ["full@d=40", "lora:r=2,targets=all", "bitfit", "adapter:r=2"])
def test_a_method_trains_saves_and_opens_again(folder: Path, tmp_path: Path, method: str) -> None:
    options = {**OPTIONS, "epochs": 4, "lr": 0.02}
    run = d90.train(str(folder / "bert"), str(folder / "t.jsonl"), method, kind="masked", **options)
    assert min(look.loss for look in run.outcome.curve[1:]) < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate().score == pytest.approx(score, abs=1e-6)
