"""A merged tune is an ordinary model: it loads without d90, and computes what the tuned model computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import merge
from d90.training.loading import open_tune
from tests.reference.blobs import FAST, blobs
from tests.reference.command import run as cli
from tests.reference.tiny import tiny_run

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
