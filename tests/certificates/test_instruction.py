"""Certificates of conversations: only the tokens of answers count, prompts are given, and the check repeats it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from d90.certificates.language import certify_language, check_language, smoothed_bits
from d90.models.loading import load as load_model
from d90.tasks import ABSENT, load
from d90.training.batches import Batches
from d90.training.loop import predict
from tests.reference.chat import chat_model
from tests.reference.command import run as command

FAST: dict[str, Any] = {
    "dims": (8,), "levels": (3,), "epochs": 1, "quantise_epochs": 1, "lr": 0.05, "precision": "fp32", "evaluations": 1,
}  # fmt: skip


def _data(folder: Path) -> Path:
    chat_model(folder / "model")
    for name, start in (("train", 0), ("validation", 900)):
        rows = []
        for i in range(start, start + 60):
            turns = [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "xyz"[i % 3] * (1 + i % 4)}]
            rows.append(json.dumps({"messages": turns}))
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(rows))
    return folder / "data"


def test_only_the_tokens_of_answers_count(tmp_path: Path) -> None:
    data = _data(tmp_path)
    model = load_model(str(tmp_path / "model"), 0, "instruction")
    task = load(str(data))
    nats = predict(model, Batches(model, task.train, task.kind), "fp32")
    counted = (nats != ABSENT).sum(dim=1)
    # an answer's letters, its end of turn, and the line's end that this template writes behind
    lengths = torch.tensor([1 + i % 4 for i in range(60)])
    assert torch.equal(counted - lengths, (counted - lengths)[:1].expand(60))
    assert int((counted - lengths)[0]) <= 2
    found = certify_language(
        str(tmp_path / "model"), str(data), "lora:r=2@structure=did", store=tmp_path / "s.sqlite", **FAST
    )
    plain = next(one for one in found.candidates if not one.payload)
    expected = smoothed_bits(nats, plain.alpha, found.vocabulary).mean().item()
    assert plain.mean == pytest.approx(expected, abs=1e-5)
    assert found.untrained == pytest.approx(
        task.loss(predict(model, Batches(model, task.validation, task.kind), "fp32"), task.validation.labels).item() / math.log(2),
        abs=1e-5,
    )  # fmt: skip
    found.save(tmp_path / "c.json")
    assert check_language(tmp_path / "c.json") == found


@pytest.mark.parametrize("options", [("--form", "betting"), ("--evaluated", "20"), ()])
def test_the_command_certifies_conversations(options: tuple[str, ...], tmp_path: Path) -> None:
    _data(tmp_path)
    done = command(
        "certify", "model", "data", *options, "--dims", "8", "--levels", "3", "--epochs", "1", "--quantise-epochs", "1", "--lr", "0.05",
        "--precision", "fp32", "--store", "s.sqlite", "--out", "c.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bits per token of a new document" in done.stdout
    done = command("certify", "--check", "c.json", cwd=tmp_path)
    assert "holds" in done.stdout, done.stderr


def _answers(folder: Path) -> Path:
    """Sixty prompts, every third of them with three answers that stand apart."""
    chat_model(folder / "model")
    for name, start in (("train", 0), ("validation", 900)):
        numbers = [*range(start, start + 60), *range(start, start + 60, 3), *range(start, start + 60, 3)]
        rows = [
            json.dumps({"prompt": f"{number}?", "completion": "xyz"[(number + i) % 3] * (1 + i % 4)})
            for i, number in enumerate(numbers)
        ]
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(rows))
    return folder / "data"


@pytest.mark.parametrize("form", [{}, {"evaluated": 30}, {"form": "betting"}, {"prior": 0.5}])
def test_a_prompt_with_all_its_answers_is_the_example_that_counts(form: dict[str, Any], tmp_path: Path) -> None:
    data = _answers(tmp_path)
    found = certify_language(
        str(tmp_path / "model"), str(data), "lora:r=2@structure=did", store=tmp_path / "s.sqlite", **FAST, **form
    )
    n = 30 if "prior" in form else 60
    assert (found.n, found.evaluated, found.test_count) == (n, form.get("evaluated", n), 60)
    assert any("100 examples share 60 prompts" in line for line in found.assumptions) or "prior" in form
    found.save(tmp_path / "c.json")
    losses = tmp_path / "losses.npy"
    assert check_language(tmp_path / "c.json", out=losses) == found
    each = torch.from_numpy(numpy.load(losses))
    assert len(each) == found.evaluated
    assert each.mean().item() == pytest.approx(found.mean, abs=1e-5)
    if form:
        return
    plain = next(one for one in found.candidates if not one.payload)
    model, task = load_model(str(tmp_path / "model"), 0, "instruction"), load(str(data))
    nats = predict(model, Batches(model, task.train, task.kind), "fp32")
    bits = smoothed_bits(nats, plain.alpha, found.vocabulary).tolist()
    rows = {i: [i, 60 + i // 3, 80 + i // 3] if i % 3 == 0 else [i] for i in range(60)}
    means = torch.tensor([sum(bits[row] for row in rows[i]) / len(rows[i]) for i in range(60)])
    assert plain.mean == pytest.approx(means.mean().item(), abs=1e-5)
    assert plain.losses[str(plain.alpha)][1] == pytest.approx(means.var().item(), rel=1e-3)
