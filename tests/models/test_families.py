"""Every family of transformers that classifies texts: trained by three methods, saved, opened again, merged, asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import d90
from d90.integrations.merge import merge
from d90.models import loading as models
from d90.tasks import Split, load
from d90.training.batches import Batches
from d90.training.loading import open_tune
from d90.training.loop import predict
from tests.reference.families import CANNOT, FAMILIES, save_family
from tests.reference.tiny import tiny_task

TEXTS = [("a b a",), ("b",), ("c a b b c",)]
PAPERS = {"bert", "roberta", "bart", "electra", "albert", "xlnet", "t5", "xlm-roberta", "deberta", "gpt2"}
METHODS = ("full@d=50", "lora:r=2", "bitfit")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_task(tmp_path_factory.mktemp("task")))


def test_the_sweep_holds_what_the_papers_measured_and_says_what_it_lacks() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    assert set(FAMILIES) >= PAPERS
    assert len(set(FAMILIES)) >= 60
    assert set(FAMILIES) <= set(KNOWN)
    assert not set(CANNOT) & set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_trains_saves_opens_merges_and_predicts(kind: str, task: str, tmp_path: Path) -> None:
    folder = save_family(kind, tmp_path / "base")
    opened, done = load(task), 0
    names: list[str] = []
    for method in METHODS:
        where = tmp_path / method.partition(":")[0].partition("@")[0]
        where.mkdir()
        if method == "bitfit" and not any(name.endswith("bias") for name in names):
            continue  # refused, as the methods' own tests say
        run = d90.train(
            str(folder), opened, method,
            epochs=1, batch_size=20, evaluations=1, lr=1e-3, max_length=16, precision="fp32",
        )  # fmt: skip
        before = _outputs(run)
        names = names or [name for name, _ in run.model.module.named_parameters()]
        run.save(where / "task.d90")
        tuned = open_tune(where / "task.d90")
        torch.testing.assert_close(tuned.outputs(TEXTS), before, rtol=0, atol=2e-5)
        merged = merge(where / "task.d90", where / "merged")
        again = models.load(str(merged), 2, max_length=16)
        assert again.fresh == ()
        torch.testing.assert_close(_of(again), before, rtol=0, atol=2e-4)
        assert len(tuned.predict(TEXTS)) == len(TEXTS)
        done += 1
        run.release()
        shutil.rmtree(where)
    assert done >= 2


def _outputs(run: d90.Run) -> torch.Tensor:
    return _of(run.model)


def _of(model: d90.Model) -> torch.Tensor:
    split = Split(TEXTS, torch.zeros(len(TEXTS), dtype=torch.int64))
    return predict(model, Batches(model, split), "fp32")
