"""A language model's tune elsewhere: the same greedy answers from d90, from peft's folder and from the merged folder; what serves them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM

import d90
from d90.errors import InputError
from d90.integrations.serving import serving_lines
from d90.training.generation import answer, chat
from d90.training.loading import open_tune
from tests.reference.chat import chat_model
from tests.reference.command import run as command

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
PROMPTS = ["a", "b", "c", "ab", "what is it?", "cab"]


def _tune(folder: Path, method: str, template: bool = False, lr: float = 3e-3) -> Path:
    """A tune on conversations, and its two folders, in `folder`."""
    module = transformers.AutoModelForCausalLM.from_pretrained(chat_model(folder / "model"))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 3  # answers that differ
    module.save_pretrained(folder / "model")
    rows = []
    for i in range(48):
        question, reply = "abc"[i % 3], "xyz"[i % 3] * 3
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options: dict[str, Any] = {"lr": lr, "epochs": 1, "batch_size": 8, "evaluations": 2, "precision": "fp32"}
    if template:
        text = (folder / "model" / "chat_template.jinja").read_text()
        (folder / "mine.jinja").write_text(text.replace("<|im_start|>", "<|im_start|>!"))
        options["chat_template"] = str(folder / "mine.jinja")
    run = d90.train(str(folder / "model"), str(folder / "data.jsonl"), method, **options)
    run.save(folder / "x.d90")
    return folder / "x.d90"


def _elsewhere(module: Any, tokenizer: Any, prompt: str, limit: int = 12) -> str:
    """As transformers' own documentation asks a model."""
    turns = [{"role": "user", "content": prompt}]
    given = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    given.pop("token_type_ids", None)  # of transformers before 5
    module.eval()
    found = module.generate(**given, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    text: str = tokenizer.decode(found[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


METHODS = {
    "lora:r=4": 5e-4, "lora:r=4,rslora@d=200": 5e-4, "lora:r=4,targets=qv@d=60,projection=onehot": 3e-3,
    "lora:r=2,alpha=8@d=80,structure=said": 3e-3,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_peft_and_the_merged_folder_answer_as_d90_does(method: str, tmp_path: Path) -> None:
    tune = _tune(tmp_path, method, template=method == "lora:r=4", lr=METHODS[method])
    own = answer(open_tune(tune), PROMPTS, 12)
    base = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "model"))
    assert len(set(own)) > 1
    assert [_elsewhere(base, tokenizer, prompt) for prompt in PROMPTS] != own
    done = command("convert", str(tune), "--to", "lora", "--out", "adapter", "--no-check", cwd=tmp_path)
    assert "holds exactly" in done.stdout, done.stderr
    assert (
        f"vllm serve {tmp_path / 'model'} --enable-lora --max-lora-rank 8 --lora-modules tuned=adapter" in done.stdout
    )
    done = command("merge", str(tune), "--out", "merged", cwd=tmp_path)
    assert "AutoModelForCausalLM.from_pretrained('merged')" in done.stdout, done.stderr
    assert "vllm serve merged" in done.stdout
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["task_type"], config["peft_type"]) == ("CAUSAL_LM", "LORA")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    for folder, load in (
        ("adapter", AutoPeftModelForCausalLM.from_pretrained), ("merged", transformers.AutoModelForCausalLM.from_pretrained),
    ):  # fmt: skip
        module = load(str(tmp_path / folder), dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / folder))
        assert [_elsewhere(module, tokenizer, prompt) for prompt in PROMPTS] == own, folder


def test_tied_embeddings_stay_tied_in_the_merged_folder(tmp_path: Path) -> None:
    tune = _tune(tmp_path, "full@d=50")
    own = answer(open_tune(tune), PROMPTS, 12)
    assert command("merge", str(tune), "--out", "merged", cwd=tmp_path).returncode == 0
    module = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"), dtype=torch.float32)
    assert module.lm_head.weight.data_ptr() == module.model.embed_tokens.weight.data_ptr()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "merged"))
    assert [_elsewhere(module, tokenizer, prompt) for prompt in PROMPTS] == own
    done = command("convert", str(tune), "--to", "lora", "--rank", "40", "--out", "adapter", "--no-check", cwd=tmp_path)
    assert "LoRA cannot hold" in done.stdout, done.stderr
    assert "model.embed_tokens.weight" in done.stdout


def test_a_chat_is_answered_turn_by_turn_and_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune = _tune(tmp_path, "full@d=50")
    pieces: list[str] = []
    opened = open_tune(tune)
    held = chat(opened, ["a", "b"], 12, pieces.append)
    assert [one.role for one in held] == ["user", "assistant", "user", "assistant"]
    assert "".join(pieces) == f"{held[1].content}\n{held[3].content}\n"
    assert held[1].content == answer(opened, ["a"], 12)[0]
    turns = [{"role": one.role, "content": one.content} for one in held[:3]]
    tokenizer: Any = opened.model.tokenizer
    given = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    module: Any = opened.model.module
    given.pop("token_type_ids", None)
    found = module.generate(**given, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert tokenizer.decode(found[0, given["input_ids"].shape[1] :], skip_special_tokens=True) == held[3].content
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n\nb\n"))
    done = command("generate", "x.d90", "--chat", "--max-new-tokens", "12", "--out", "chat.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "chat.jsonl").read_text())["messages"]
    assert [one["content"] for one in kept] == [one.content for one in held]
    assert held[1].content in done.stdout
    done = command("generate", "x.d90", "a", "--chat", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = command("predict", "x.d90", "a", cwd=tmp_path)
    assert done.returncode == 2
    assert "use 'd90 generate'" in done.stderr


def test_a_tune_of_plain_prompts_holds_no_conversation(tmp_path: Path) -> None:
    chat_model(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text('{"prompt": "a:", "completion": "b"}\n' * 20)
    run = d90.train(str(tmp_path / "model"), str(tmp_path / "data.jsonl"), "full@d=5", epochs=0.2, evaluations=1)
    run.save(tmp_path / "x.d90")
    with pytest.raises(InputError, match="was not trained on conversations"):
        chat(open_tune(tmp_path / "x.d90"), ["a"], 4, print)


def test_the_card_of_a_language_model_says_how_to_serve_it(tmp_path: Path) -> None:
    from d90.integrations.model_card import card
    from d90.subspace import file as tune_file
    from d90.training.record import read_record

    tune = _tune(tmp_path, "lora:r=4@d=20")
    text = card(read_record(tune), tune_file.about(tune), "owner/name")
    for words in (
        "pipeline_tag: text-generation", "d90 generate tuned/task.d90", "vllm serve path/to/the/base --enable-lora --max-lora-rank 8",
        "AutoModelForCausalLM.from_pretrained('model')", "ollama: a Modelfile of two lines, FROM path/to/the/base and ADAPTER adapter",
    ):  # fmt: skip
        assert words in text
    assert "d90 predict" not in text


def test_serving_lines_quote_paths_and_take_a_rank_that_vllm_knows() -> None:
    assert serving_lines("a b", "my adapter", 24)[0] == (
        "vllm serve 'a b' --enable-lora --max-lora-rank 32 --lora-modules 'tuned=my adapter'"
    )
    assert serving_lines("", "m") == ["vllm serve m", "ollama: a Modelfile of one line, FROM m"]
