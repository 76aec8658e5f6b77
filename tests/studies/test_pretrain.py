"""Pretraining: the schedule, what is kept, an interrupted run that goes on to the same weights, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from d90.errors import InputError
from d90.models.loading import load
from d90.options import PretrainOptions
from d90.options.pretrain import schedule
from d90.studies.pretrain import pretrain
from d90.training.progress import Progress

WORDS = list(range(100, 140))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Lines of words in which each follows from the one before."""
    path = tmp_path_factory.mktemp("text") / "lines.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        for start in range(400):
            lines.write(" ".join(str(WORDS[(start * 7 + step) % len(WORDS)]) for step in range(12)) + "\n\n")
    return str(path)


@pytest.fixture
def small() -> PretrainOptions:
    return PretrainOptions(
        layers=1, width=64, vocabulary=300, length=16, batch_size=8, steps=32, lr=3e-3, checkpoints=4
    )


def test_the_schedule_halves() -> None:
    assert schedule(2048, 8) == [0, 32, 64, 128, 256, 512, 1024, 2048]
    assert schedule(1, 2) == [0, 1]
    with pytest.raises(InputError, match="expected between 2 and 6"):
        schedule(16, 7)


def test_checkpoints_are_models_that_learn(small: PretrainOptions, text: str, tmp_path: Path) -> None:
    paths = pretrain(text, tmp_path / "run", validation=text, options=small)
    assert [path.name for path in paths] == ["step-00", "step-08", "step-16", "step-32"]
    losses = [json.loads((path / "pretraining.json").read_text())["validation_loss"] for path in paths]
    assert losses[-1] < 0.9 * losses[0]
    first, last = (load(str(paths[i]), 2) for i in (0, -1))
    assert first.fingerprint != last.fingerprint
    assert "classifier.weight" in last.fresh
    assert not any("embeddings" in name for name in last.fresh)
    assert not (tmp_path / "run" / "resume").exists()


def test_an_interrupted_run_goes_on_to_the_same_weights(small: PretrainOptions, text: str, tmp_path: Path) -> None:
    whole = pretrain(text, tmp_path / "whole", options=small)[-1]

    class Interrupted(Progress):
        def note(self, message: str) -> None:
            if message.startswith("step 16"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(text, tmp_path / "cut", options=small, progress=Interrupted())
    again = pretrain(text, tmp_path / "cut", options=small)[-1]
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    written = (again / "model.safetensors").stat().st_mtime_ns
    assert pretrain(text, tmp_path / "cut", options=small)[-1] == again
    assert (again / "model.safetensors").stat().st_mtime_ns == written, "a finished run was trained again"


def test_random_numbers_of_the_training_are_left_alone_by_the_validation(
    small: PretrainOptions, text: str, tmp_path: Path
) -> None:
    with_loss = pretrain(text, tmp_path / "with", validation=text, options=small)[-1]
    without = pretrain(text, tmp_path / "without", options=small)[-1]
    assert (with_loss / "model.safetensors").read_bytes() == (without / "model.safetensors").read_bytes()


def test_what_is_wrong_is_said(small: PretrainOptions, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiple of 32"):
        pretrain(text, tmp_path, options=small, width=100)
    with pytest.raises(InputError, match="seed"):
        pretrain(text, tmp_path, options=small, seed=1 << 32)
    with pytest.raises(InputError, match="not a file"):
        pretrain(tmp_path / "none.txt", tmp_path / "none", options=small)
    with pytest.raises(InputError, match="at least 8, a batch"):
        pretrain(text, tmp_path / "little", options=small, limit=1)
    pretrain(text, tmp_path / "one", options=small, steps=1, checkpoints=2)
    with pytest.raises(InputError, match="another run"):
        pretrain(text, tmp_path / "one", options=small, steps=1, checkpoints=2, lr=1e-4)
    assert torch.is_grad_enabled()
