"""Tunes as folders that peft loads: exactly where LoRA was trained, measured where it was not, and `d90 convert`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers.utils import logging

import d90
from d90.errors import InputError
from d90.integrations.convert import convert
from d90.integrations.lora import Exported, to_lora
from d90.methods import apply, parse
from d90.training.base import open_base
from d90.training.loading import open_tune
from d90.training.record import read_record
from tests.methods.table import bert, gpt2, llama, loss_of, outputs_of
from tests.reference.command import run
from tests.reference.tokenizer import save_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def tune_of(method: str, make: Callable[[], nn.Module], path: Path, steps: int = 4) -> torch.Tensor:
    """Train with a method, save, and return the outputs."""
    applied_method = apply(parse(method), make(), seed=3)
    optimizer = torch.optim.Adam(applied_method.trained.parameters(), lr=0.05)
    applied_method.model.train()
    for _ in range(steps):
        loss_of(applied_method.model).backward()
        optimizer.step()
        optimizer.zero_grad()
    applied_method.save(path)
    return outputs_of(applied_method.model)


def folder_of(method: str, make: Callable[[], nn.Module], home: Path, rank: int | None = None) -> Exported:
    return to_lora(
        home / "task.d90", make(), home / f"lora{rank or ''}", rank=rank, method=method, seed=3, probe=outputs_of
    )


@pytest.mark.parametrize(
    "method", ["lora:r=4,targets=qkv@d=50", "lora:r=2,alpha=8,targets=all", "lora:r=3,targets=mlp@d=30,structure=said"]
)
@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_lora_goes_over_exactly(make: Callable[[], nn.Module], method: str, tmp_path: Path) -> None:
    expected = tune_of(method, make, tmp_path / "task.d90")
    found = folder_of(method, make, tmp_path)
    assert (found.exact, found.kept, found.lost) == (True, 1.0, {})
    assert found.error is not None
    assert found.error <= 1e-6
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    loaded = PeftModel.from_pretrained(make(), tmp_path / "lora")  # peft's own code and files alone
    assert torch.allclose(outputs_of(loaded), expected, atol=1e-6)
    assert torch.allclose(outputs_of(loaded.merge_and_unload()), expected, atol=1e-5)
    assert not torch.allclose(expected, outputs_of(make()), atol=1e-3), "it was trained"


@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_a_full_space_is_cut_to_a_rank_and_the_loss_is_reported(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    expected = tune_of("full@d=40", make, tmp_path / "task.d90")
    low, high = (folder_of("full", make, tmp_path, rank) for rank in (1, 16))
    assert low.error is not None
    assert high.error is not None
    assert not low.exact
    assert 0 < low.kept < high.kept < 1
    assert high.error > 0
    # at full rank all matrices are whole, and what is missing is what is named
    assert sum(high.lost.values()) == pytest.approx(1 - high.kept, abs=1e-6)
    named = dict(make().named_parameters())
    assert high.lost.keys() <= named.keys()
    assert all(named[name].dim() == 1 or "emb" in name or "wte" in name or "wpe" in name for name in high.lost)
    loaded = PeftModel.from_pretrained(make(), high.folder)
    assert high.exported is not None
    assert torch.allclose(outputs_of(loaded), high.exported, atol=1e-6)
    # put what is named in by hand: nothing else is missing
    space_model = make()
    d90.Subspace.load(tmp_path / "task.d90", space_model).merge()
    tuned, whole = dict(space_model.named_parameters()), loaded.merge_and_unload()
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if name in high.lost:
                parameter.copy_(tuned[name])
    assert torch.allclose(outputs_of(whole), expected, atol=1e-5)


def test_the_model_is_given_back(tmp_path: Path) -> None:
    model = bert()
    tune_of("full@d=40", bert, tmp_path / "task.d90")
    model.bert.pooler.requires_grad_(True)
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    for method, rank in (("full", 2), ("lora:r=2@d=20", None)):
        tune_of(f"{method}@d=40" if method == "full" else method, bert, tmp_path / "task.d90")
        to_lora(tmp_path / "task.d90", model, tmp_path / f"lora{rank}", rank=rank, method=method, seed=3)
        after = dict(model.named_parameters())
        assert after.keys() == before.keys()
        assert all(torch.equal(after[n], p) and after[n].requires_grad == flag for n, (p, flag) in before.items())
        assert not hasattr(model, "peft_config")


def test_what_does_not_fit_lora_is_named(tmp_path: Path) -> None:
    tune_of("lora:r=4@d=50", bert, tmp_path / "task.d90", 1)
    with pytest.raises(InputError, match="has LoRA's own rank 4"):
        folder_of("lora:r=4", bert, tmp_path, rank=2)
    tune_of("full@d=40", bert, tmp_path / "task.d90", 1)
    with pytest.raises(InputError, match="got rank=None, expected at least 1"):
        folder_of("full", bert, tmp_path)
    tune_of("preembed:prefix=2", bert, tmp_path / "task.d90", 1)
    with pytest.raises(InputError, match="cannot be merged"):
        folder_of("preembed:prefix=2", bert, tmp_path, rank=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pretrained model, a task beside it, and tunes of `d90.train`."""
    place = tmp_path_factory.mktemp("c")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=7, max_position_embeddings=16, pad_token_id=0, **sizes)
    logging.disable_progress_bar()
    transformers.BertForSequenceClassification(config).save_pretrained(place / "base")
    logging.enable_progress_bar()
    save_tokenizer(place / "base", marks=True)
    rows = [{"text": "a a b" if i % 2 else "c b c", "label": i % 2} for i in range(160)]
    (place / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, method in {
        "lora": "lora:r=2@d=30",
        "full": "full@d=30",
        "bias": "bitfit@d=30",
        "plain": "lora:r=2",
    }.items():
        done = d90.train(
            str(place / "base"), str(place / "t.jsonl"), method, epochs=16, batch_size=8, evaluations=4, lr=0.02
        )
        done.save(place / f"{name}.d90")
        done.release()
    return place


@pytest.mark.parametrize("name", ["full", "bias"])
def test_convert_to_peft(home: Path, name: str, tmp_path: Path) -> None:
    done = run("convert", str(home / f"{name}.d90"), "--to", "peft", "--out", str(tmp_path / "folder"))
    assert done.returncode == 0, done.stderr
    assert "theta as it is" in done.stdout
    opened = open_tune(home / f"{name}.d90")
    base = open_base(read_record(home / f"{name}.d90")).module
    loaded = PeftModel.from_pretrained(base, tmp_path / "folder").eval()
    words = torch.tensor([[1, 2, 3], [3, 2, 1]])
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=words).logits, opened.model.module.eval()(input_ids=words).logits)


def test_convert_to_lora(home: Path, tmp_path: Path) -> None:
    done = run("convert", str(home / "lora.d90"), "--to", "lora", "--out", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert "rank 2" in done.stdout
    assert "exactly" in done.stdout
    before, after = (part.split()[0] for part in done.stdout.split("accuracy ")[1].split("with the tune, "))
    assert before == after
    done = run("convert", str(home / "full.d90"), "--to", "lora", "--rank", "2", "--out", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    assert "% of the change's squared norm" in done.stdout
    assert "word_embeddings.weight" in done.stdout
    found = convert(home / "plain.d90", "lora", tmp_path / "c", check=False)
    assert found.exact
    assert found.before is None


def test_a_mistake_is_one_clear_line(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    mistakes = [
        (["full.d90", "--to", "onnx"], "peft"),
        (["full.d90", "--to", "lora"], "Choose one, as --rank 8"),
        (["full.d90", "--to", "peft", "--rank", "2"], "Leave it out"),
        (["lora.d90", "--to", "peft"], "Use --to lora"),
        (["plain.d90", "--to", "peft"], "Use --to lora"),
        (["none.d90", "--to", "lora"], "no such file"),
        (["full.d90", "--to", "peft", "--out", str(tmp_path / "file")], "expected a folder"),
    ]
    for (name, *options), words in mistakes:
        out = [] if "--out" in options else ["--out", str(tmp_path / "out")]
        done = run("convert", str(home / name), *options, *out)
        assert done.returncode == 2, (name, options, done)
        assert len(done.stderr.splitlines()) == 1
        assert words in done.stderr
