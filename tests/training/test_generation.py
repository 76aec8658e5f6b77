"""Generation: batches say what each prompt alone does, answers stop where turns end, tunes answer as they were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.models.loading import load
from d90.tasks.rendering import Renderer
from d90.training.generation import answer, generate
from d90.training.loading import open_tune
from tests.reference.chat import TEMPLATES, chat_model, chat_tokenizer
from tests.reference.command import run as command

ENDS = {
    "chatml": {"<|im_end|>"}, "llama3": {"<|eot_id|>"}, "mistral": {"</s>"}, "gemma": {"<eos>", "<end_of_turn>"},
    "phi3": {"<|end|>", "<|endoftext|>"}, "qwen": {"<|im_end|>"},
}  # fmt: skip


@pytest.mark.parametrize("family", TEMPLATES)
def test_an_answer_ends_at_eos_and_at_the_templates_end_of_turn(family: str) -> None:
    tokenizer = chat_tokenizer(family)
    found = Renderer(tokenizer, None, True, "m").ends()
    assert set(tokenizer.convert_ids_to_tokens(sorted(found))) == ENDS[family]


def test_a_batch_answers_as_each_prompt_alone_and_greedily(tmp_path: Path) -> None:
    model = load(str(chat_model(tmp_path / "model")), 0, "language")
    module: Any = model.module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 3  # answers that differ
    prompts = [[ord("a"), 5], [7, 8, 9, 10, 11], [40]]
    together = generate(model, prompts, 6, {258}, size=3)
    assert together == [generate(model, [ids], 6, {258})[0] for ids in prompts]
    ids = list(prompts[1])
    for _ in range(6):
        ids.append(int(module(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert together[1] == model.tokenizer.decode(ids[5:], skip_special_tokens=True)  # type: ignore[union-attr]
    stopped = generate(model, [prompts[1]], 6, {ids[6]})
    assert stopped == [model.tokenizer.decode(ids[5:6], skip_special_tokens=True)]  # type: ignore[union-attr]


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    model = load(str(chat_model(tmp_path / "model", positions=16)), 0, "language")
    with pytest.raises(InputError, match=r"prompt 2 has 16 tokens and .* takes 16"):
        generate(model, [[1], [1] * 16], 4, set())


@pytest.mark.parametrize("plain", [False, True])
def test_a_tune_answers_what_it_learnt(plain: bool, tmp_path: Path) -> None:
    chat_model(tmp_path / "model")
    turns = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "ok"}]
    row = {"prompt": "say:", "completion": "ok"} if plain else {"messages": turns}
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([json.dumps(row)] * 40))
    run = d90.train(str(tmp_path / "model"), str(data), "full", lr=1e-2, epochs=10, batch_size=8, evaluations=1)
    run.save(tmp_path / "x.d90")
    asked = "say:" if plain else "say"
    assert answer(open_tune(tmp_path / "x.d90"), [asked, asked], 8) == ["ok", "ok"]
    (tmp_path / "asked.txt").write_text(f"{asked}\n{asked}\n")
    done = command("generate", "x.d90", "--file", "asked.txt", "--out", "answers.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"prompt": asked, "answer": "ok"}] * 2
    for arguments, words in (((), "expected either prompts or --file"), (("a", "--out", "x.csv"), "ends in .jsonl")):
        done = command("generate", "x.d90", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
