"""Batches of a language model: which tokens count, logits only there, attention by the texts' length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import d90
from d90 import tasks
from d90.models.loading import load
from d90.models.model import Model
from d90.tasks import ABSENT, Split
from d90.tasks.kinds import Instruction, Language
from d90.training.batches import Batches, outputs_of
from d90.training.loading import open_tune
from tests.reference.chat import chat_model
from tests.reference.states import hooks_of

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"{i}+{i}?"},
            {"role": "assistant", "content": str(2 * i)},
            {"role": "user", "content": "And twice?"},
            {"role": "assistant", "content": str(4 * i)},
        ][: 2 if i % 2 else 4]
    }
    for i in range(40)
]


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Model, tasks.Task]:
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return load(str(chat_model(tmp_path / "model")), 0, "instruction"), tasks.load(str(tmp_path / "chat.jsonl"))


def test_losses_at_the_answers_are_those_of_all_logits(opened: tuple[Model, tasks.Task]) -> None:
    model, task = opened
    batches = Batches(model, task.train, task.kind)
    batch = batches.inputs(torch.arange(6))
    module: Any = model.module
    found = outputs_of(module, batch, task.kind)
    logits = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    counted = batch["scored"][:, 1:]
    wanted = cross_entropy(logits[:, :-1].transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
    assert (counted.sum(dim=1) > 0).all()
    assert not counted.all()
    assert torch.allclose(found, wanted.masked_fill(~counted, ABSENT), atol=1e-5)
    first, second = (_gradients(module, outputs, counted) for outputs in (found, wanted))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, second, strict=True))


def _gradients(module: Any, outputs: torch.Tensor, counted: torch.Tensor) -> list[torch.Tensor]:
    module.zero_grad()
    (outputs.where(counted, 0.0).sum(dim=1) / counted.sum(dim=1)).mean().backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


def test_the_output_matrix_sees_only_the_places_that_count(opened: tuple[Model, tasks.Task]) -> None:
    model, task = opened
    module: Any = model.module
    batch = Batches(model, task.train, task.kind).inputs(torch.arange(6))
    shapes: list[torch.Size] = []
    handle = module.get_output_embeddings().register_forward_hook(lambda m, args, out: shapes.append(out.shape))
    outputs_of(module, batch, task.kind)
    handle.remove()
    assert shapes == [(1, int(batch["scored"][:, 1:].sum()), model.vocabulary)]
    assert not hooks_of(module)


def test_documents_lose_what_they_lost_with_all_logits(opened: tuple[Model, tasks.Task]) -> None:
    model, _ = opened
    split = Split([("abc",), ("a longer one",)], torch.zeros(2, dtype=torch.int64))
    batch = Batches(model, split, Language()).inputs(torch.arange(2))
    found = outputs_of(model.module, batch, Language())
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model.module(**given).logits
    assert torch.allclose(found, Language().outputs_of(logits, given), atol=1e-6)
    assert (found == ABSENT).sum() == 9
    assert found.shape == (2, 12)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU attention is left alone")
def test_attention_is_chosen_by_the_texts_and_not_by_what_the_model_takes(tmp_path: Path) -> None:
    model = load(str(chat_model(tmp_path / "model", positions=2048)), 0, "language")
    module: Any = model.module
    found = []
    for length in (20, 600, 20):
        Batches(model, Split([("a" * length,)], torch.zeros(1, dtype=torch.int64)))
        found.append(module.config._attn_implementation)
    assert found == ["eager", "sdpa", "sdpa"]


def test_a_users_own_network_keeps_its_attention(tmp_path: Path) -> None:
    loaded = load(str(chat_model(tmp_path / "model", positions=2048)), 0, "language")
    own = Model("own", loaded.module, loaded.tokenizer, vocabulary=loaded.vocabulary)
    own.module.set_attn_implementation("sdpa")  # type: ignore[operator]
    Batches(own, Split([("abc",)], torch.zeros(1, dtype=torch.int64)))
    assert own.module.config._attn_implementation == "sdpa"  # type: ignore[union-attr]


def test_conversations_are_learnt_and_a_tune_scores_as_it_did_in_training(
    opened: tuple[Model, tasks.Task], tmp_path: Path
) -> None:
    model, task = opened
    run = d90.train(str(tmp_path / "model"), str(tmp_path / "chat.jsonl"), "full", lr=1e-2, epochs=8, batch_size=8)
    assert run.outcome.score > run.outcome.zero_score + 1
    run.save(tmp_path / "x.d90")
    tune = open_tune(tmp_path / "x.d90")
    assert tune.kind == Instruction() == task.kind
    assert model.vocabulary is not None
    assert tune.evaluate().score == pytest.approx(run.outcome.score, abs=1e-4)
