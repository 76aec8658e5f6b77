"""A merged tune is an ordinary model: it loads without d90, and computes what the tuned model computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.convert import convert
from d90.integrations.merge import merge
from d90.integrations.unit import fold_unit, head_of_values
from d90.training.base import open_base
from d90.training.loading import open_tune
from tests.reference.blobs import FAST, blobs
from tests.reference.command import run as cli
from tests.reference.tiny import tiny_model, tiny_run

TEXTS = ["a a b", "b b", "c a b a b a b a b c"]


@pytest.mark.parametrize(
    "method", ["full@d=20", "full@d=20,structure=said,head=outside", "lora:r=2,targets=all", "bitfit", "lora:r=2@d=10"]
)
def test_a_merged_folder_is_the_tuned_model(tmp_path: Path, method: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tiny_run(tmp_path, method).release()
    tuned = open_tune(tmp_path / "task.d90")
    folder = merge(tmp_path / "task.d90", tmp_path / "model")
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".py"))]
    assert str(tmp_path) not in "".join(f.read_text() for f in folder.glob("*.json")), "no path of this machine"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs).logits
    torch.testing.assert_close(outputs, tuned.outputs([(text,) for text in TEXTS]), rtol=1e-5, atol=1e-6)
    assert [model.config.id2label[i] for i in outputs.argmax(1).tolist()] == [
        label for label, _ in tuned.predict([(text,) for text in TEXTS])
    ]
    assert model.dtype == torch.float32
    assert not [name for name in model.state_dict() if "lora" in name or "d90" in name]


def test_merge_command_writes_whole_folders_or_none(tmp_path: Path) -> None:
    tiny_run(tmp_path).release()
    (tmp_path / "model").mkdir()
    done = cli("merge", "task.d90", "--out", "model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "from_pretrained('model')" in done.stdout
    assert json.loads((tmp_path / "model" / "config.json").read_text())["id2label"] == {"0": "less", "1": "more"}
    again = cli("merge", "task.d90", "--out", "model", cwd=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "holds something already" in again.stderr
    assert not list(tmp_path.glob(".d90-*"))


def test_what_has_no_ordinary_form_is_refused(tmp_path: Path) -> None:
    tiny_run(tmp_path, "adapter:r=2").release()
    with pytest.raises(InputError, match="cannot be merged"):
        merge(tmp_path / "task.d90", tmp_path / "model")
    images = d90.train("mlp:16-8-3", blobs(), "full@d=20", **FAST)
    images.save(tmp_path / "images.d90")
    with pytest.raises(InputError, match="no config to write"):
        merge(tmp_path / "images.d90", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def regression(folder: Path, method: str = "full@d=20") -> None:
    """A tune that predicts prices, whose mean is far from 0 and whose deviation is far from 1."""
    tiny_model(folder / "base")
    rows = [{"text": text, "label": 300.5 + 90 * text.count("a")} for text in ("a a b", "b a b", "a c a", "b b c")] * 6
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = d90.train(
        str(folder / "base"), str(folder / "data.jsonl"), method, epochs=3, batch_size=4, evaluations=1, lr=0.02, max_length=8,
        precision="fp32",
    )  # fmt: skip
    run.save(folder / "task.d90")
    run.release()


@pytest.mark.parametrize("method", ["full@d=20", "lora:r=2,targets=all"])
def test_a_merged_regression_puts_out_values_in_the_unit_of_its_labels(tmp_path: Path, method: str) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    regression(tmp_path, method)
    folder = merge(tmp_path / "task.d90", tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs).logits[:, 0]
    values = [value for _, value in open_tune(tmp_path / "task.d90").predict([(text,) for text in TEXTS])]
    assert found.tolist() == pytest.approx(values, rel=1e-5)
    assert min(values) > 250


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_lora_folder_of_a_regression_puts_out_values_in_the_unit_of_its_labels(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoTokenizer

    regression(tmp_path, "lora:r=2,targets=all")
    converted = convert(tmp_path / "task.d90", "lora", tmp_path / "adapter")
    assert converted.after == pytest.approx(converted.before, abs=1e-4)
    tuned = open_tune(tmp_path / "task.d90")
    values = [value for _, value in tuned.predict([(text,) for text in TEXTS])]
    model = PeftModel.from_pretrained(open_base(tuned.record).module, tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    inputs = tokenizer(TEXTS, padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).logits[:, 0].tolist() == pytest.approx(values, rel=1e-4)


def test_a_regression_without_a_linear_head_is_refused_by_name() -> None:
    module = gpt2_regression()
    assert head_of_values(module) is None
    with pytest.raises(InputError, match=r"of GPT2ForSequenceClassification is not that of a linear layer with a bias"):
        fold_unit(module, 300.0, 40.0, "t.d90")


def test_the_head_of_values_is_found_by_what_it_does_and_left_as_it_was() -> None:
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for family in ("Bert", "Roberta", "Electra"):
        config = getattr(transformers, f"{family}Config")(vocab_size=30, num_labels=1, **sizes)
        module = getattr(transformers, f"{family}ForSequenceClassification")(config)
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        layer = head_of_values(module)
        last = module.classifier if isinstance(module.classifier, torch.nn.Linear) else module.classifier.out_proj
        assert layer is last
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def gpt2_regression() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=30, n_layer=1, n_embd=8, n_head=2, num_labels=1, pad_token_id=0)
    )
