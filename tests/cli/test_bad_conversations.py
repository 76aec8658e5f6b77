"""What can be wrong with instruction data or its model: from the command line one clear line and status 2, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import d90
from d90.errors import InputError
from d90.training.loading import open_tune
from tests.reference.chat import chat_model, chat_tokenizer
from tests.reference.command import run as command

ASKED, ANSWERED = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
GOOD = {"messages": [ASKED, ANSWERED]}


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "model" / "tokenizer_config.json"
    held = json.loads(file.read_text())
    change(held)
    file.write_text(json.dumps(held))


def _no_template(folder: Path) -> None:
    (folder / "model" / "chat_template.jinja").unlink()


def _no_end(folder: Path) -> None:
    _edit(folder, lambda held: [held.pop(key, None) for key in ("eos_token", "pad_token", "bos_token")])


def _more_tokens(folder: Path) -> None:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.add_tokens(["2+2"])
    tokenizer.save_pretrained(folder / "model")


CASES: dict[str, tuple[list[Any], str, Callable[[Path], None] | None, tuple[str, ...], str]] = {
    "no assistant turn": ([{"messages": [ASKED]}], "chatml", None, (), "line 1: no assistant turn"),
    "no turn": ([{"messages": []}], "chatml", None, (), "holds no turn"),
    "two user turns": ([GOOD, {"messages": [ASKED, ASKED, ANSWERED]}], "mistral", None, (), "example 2: the chat template of"),
    "a system prompt that is forbidden": (
        [{"messages": [{"role": "system", "content": "x"}, ASKED, ANSWERED]}], "gemma", None, (),
        "System role",
    ),
    "empty answer": ([{"messages": [ASKED, {"role": "assistant", "content": " "}]}], "chatml", None, (), "the answer (turn 2) is empty"),
    "an answer that is null": (
        [{"messages": [ASKED, {"role": "assistant", "content": None}]}], "chatml", None, (),
        "turn 2 has no content",
    ),
    "empty completion": ([{"prompt": "a", "completion": ""}], "chatml", None, (), "line 1: the answer"),
    "a prompt longer than the model": (
        [{"messages": [{"role": "user", "content": "x" * 300}, ANSWERED]}], "chatml", None, (),
        "its prompt has 3",
    ),
    "a prompt longer than --max-length": ([GOOD], "chatml", None, ("--max-length", "8"), "takes 8"),
    "no chat template": (
        [GOOD], "chatml", _no_template, (),
        "has no chat template, expected one for conversations. Give one with --chat-template",
    ),
    "an unknown role": ([{"messages": [{"role": "narrator", "content": "x"}, ANSWERED]}], "chatml", None, (), "has the role 'narrator'"),
    "a tool call": (
        [{"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}]}], "chatml", None, (),
        "turn 2 calls a tool",
    ),
    "mixed formats": ([GOOD, {"prompt": "a", "completion": "b"}], "chatml", None, (), "line 2: no 'messages', and is of another format"),
    "a tokenizer without EOS or padding": ([{"prompt": "a", "completion": "b"}], "chatml", _no_end, (), "has no eos token"),
    "a vocabulary larger than the embedding": ([GOOD], "chatml", _more_tokens, (), "rows; expected"),
    "four bits under full": ([GOOD], "chatml", None, ("-m", "full", "--weights", "4bit"), "packed integers cannot move"),
    "four bits under bitfit": ([GOOD], "chatml", None, ("-m", "bitfit", "--weights", "4bit"), "packed integers cannot move"),
    "four bits under a subspace of all weights": (
        [GOOD], "chatml", None, ("-m", "full@d=9", "--weights", "4bit"),
        "packed integers cannot move",
    ),
    "bf16 under full": ([GOOD], "chatml", None, ("-m", "full", "--weights", "bf16"), "lost in the weights' rounding"),
    "a metric of labels": ([GOOD], "chatml", None, ("--metric", "accuracy"), "expected loss, exact, contains, bleu, chrf, rouge1"),
    "a script that is not there": ([GOOD], "chatml", None, ("--metric", "script:none.py"), "no such file: 'none.py'"),
    "a template that is not there": ([GOOD], "chatml", None, ("--chat-template", "none.jinja"), "no such file: 'none.jinja'"),
    "another word for what counts": ([GOOD], "chatml", None, ("--loss-on", "prompts"), "loss_on"),
    "no parts": ([GOOD], "chatml", None, ("--accumulate", "0"), "accumulate"),
    "less than nothing forgotten": ([GOOD], "chatml", None, ("--forget-at-most", "-1"), "nats a token"),
    "nothing to keep": ([GOOD], "chatml", None, ("--keep", "text:nowhere"), "no such file or folder"),
    "an encoder": ([GOOD], "encoder", None, (), "causal language model"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_one_line_with_status_2(case: str, tmp_path: Path) -> None:
    rows, family, change, options, words = CASES[case]
    model = "model"
    if family == "encoder":
        model = "minilm-like"
        _encoder(tmp_path / model)
    else:
        chat_model(tmp_path / "model", family)
    if change is not None:
        change(tmp_path)
    lines = "\n".join(json.dumps(row) for row in rows + rows[:1] * 3)
    (tmp_path / "train.jsonl").write_text(lines)
    (tmp_path / "validation.jsonl").write_text(lines)
    given = options if "-m" in options else (*options, "-m", "lora:r=2")
    done = command("train", model, ".", *given, "--epochs", "0.1", "--evaluations", "1", "--out", "x.d90", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    *notes, last = done.stderr.splitlines()
    assert last.startswith("d90: ")
    assert words in last
    assert all(" note: " in line for line in notes)
    assert not (tmp_path / "x.d90").exists()


def _encoder(folder: Path) -> None:
    import transformers as t

    config = t.BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    t.BertModel(config).save_pretrained(folder)
    chat_tokenizer("chatml").save_pretrained(folder)


class Bare(nn.Module):
    """A causal model of its own: takes ids alone, gives logits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.read = nn.Embedding(260, 8), nn.GRU(8, 8, batch_first=True)
        self.out = nn.Linear(8, 260)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(n, tokens) -> (n, tokens, V)."""
        found: torch.Tensor = self.out(self.read(self.embedding(input_ids))[0])
        return found


@pytest.mark.parametrize("form", ["text", "conversations"])
def test_a_model_whose_forward_takes_no_mask_trains(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = tmp_path / ("x.txt" if form == "text" else "x.jsonl")
    task.write_text("\n\n".join(["abc abc", "abc"] * 10) if form == "text" else f"{json.dumps(GOOD)}\n" * 20)
    model = d90.Model("bare", Bare(), chat_tokenizer("chatml"), vocabulary=260)
    name = f"text:{task}" if form == "text" else str(task)
    run = d90.train(model, name, "full", epochs=2, lr=1e-2, batch_size=4, evaluations=1, forgetting=True)
    assert run.outcome.improved
    assert run.outcome.forgetting[0].mean > 0
    with pytest.raises(InputError, match="cannot generate"):
        d90.train(model, str(_chat(tmp_path)), "full", epochs=0.1, evaluations=1, metric="exact")


def _chat(folder: Path) -> Path:
    (folder / "chat.jsonl").write_text(f"{json.dumps(GOOD)}\n" * 20)
    return folder / "chat.jsonl"


class Letters:
    """A tokenizer of one's own: a token a byte, and no list of special tokens."""

    pad_token_id = 0
    bos_token_id = 1
    eos_token_id = 2

    def __call__(self, texts: Any, **_: Any) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"input_ids": [3 + byte for byte in texts.encode()]}
        return {"input_ids": [[3 + byte for byte in text.encode()] for text in texts]}

    def convert_ids_to_tokens(self, token: int) -> str:
        """A token's name."""
        return str(token)


def test_a_tokenizer_without_a_list_of_special_tokens_trains(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n\n".join(["abc abc", "abc"] * 10))
    model = d90.Model("bare", Bare(), Letters(), vocabulary=260)
    checkpoint = (tmp_path / "state", 10.0)
    run = d90.train(
        model,
        f"text:{tmp_path / 'x.txt'}",
        "full",
        epochs=2,
        lr=1e-2,
        batch_size=4,
        evaluations=1,
        checkpoint=checkpoint,
    )
    assert run.outcome.improved
    found = d90.compare(
        model,
        f"text:{tmp_path / 'x.txt'}",
        ["full"],
        lr=1e-2,
        epochs=0.5,
        evaluations=1,
        costs=False,
        store=tmp_path / "s.sqlite",
    )
    assert len(found.entries) == 1


def test_a_tune_that_was_damaged_is_reported_by_generate(tmp_path: Path) -> None:
    chat_model(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(GOOD)}\n" * 20)
    run = d90.train(str(tmp_path / "model"), str(tmp_path / "data.jsonl"), "full@d=5", epochs=0.1, evaluations=1)
    run.save(tmp_path / "x.d90")
    assert open_tune(tmp_path / "x.d90").kind.name == "instruction"
    held = json.loads((tmp_path / "x.json").read_text())
    held["task"]["chat_template"] = "{{ messages }}"
    (tmp_path / "x.json").write_text(json.dumps(held))
    done = command("generate", "x.d90", "a", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "it was edited" in done.stderr
