"""A model and a task opened for one another: precision of storage, names of classes, networks of the user's own, devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import d90
from d90.errors import InputError
from d90.methods import parse
from d90.models import loading as models
from d90.models.model import Model
from d90.options import TrainingOptions
from d90.training.data import Data, open_model, open_task
from d90.training.device import best_device, check_device
from d90.training.evaluation import Assessment, assess
from d90.training.loading import open_tune
from d90.training.loop import fit
from d90.training.progress import Progress
from d90.training.recipe import Recipe, make_recipe
from d90.training.result import Evaluation
from tests.reference.blobs import FAST, blobs
from tests.reference.tiny import tiny_model, tiny_task

OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "evaluations": 2, "max_length": 8, "precision": "fp32"}


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def stored_as(folder: Path, dtype: torch.dtype) -> Path:
    """A checkpoint in half precision, and beside it the same numbers stored in fp32."""
    from transformers import BertForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    tiny_model(folder)
    half = BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(dtype)
    half.save_pretrained(folder)
    twin = tiny_model(Path(f"{folder}-fp32"))
    half.float().save_pretrained(twin)
    logging.enable_progress_bar()
    return folder


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("method", ["full", "bitfit", "lora:r=2", "full@d=20"])
def test_a_half_precision_checkpoint_trains_as_its_fp32_copy(method: str, dtype: torch.dtype, tmp_path: Path) -> None:
    half, task, told = stored_as(tmp_path / "half", dtype), str(tiny_task(tmp_path / "data")), Notes()
    runs = [d90.train(str(half), task, method, progress=told, **OPTIONS)]
    runs.append(d90.train(f"{half}-fp32", task, method, **OPTIONS))
    assert runs[0].outcome.curve == runs[1].outcome.curve
    assert {p.dtype for p in runs[0].model.module.parameters()} == {torch.float32}
    assert any(f"stored in {str(dtype).removeprefix('torch.')} and trained in fp32" in note for note in told.notes)


def test_a_checkpoint_in_half_precision_has_other_keys_and_the_same_fingerprint(tmp_path: Path) -> None:
    half = models.load(str(stored_as(tmp_path / "half", torch.bfloat16)), 2)
    whole = models.load(f"{half.name}-fp32", 2)
    assert half.changes == ("bfloat16 weights trained in fp32",)
    assert whole.changes == ()
    assert half.fingerprint == whole.fingerprint


def named(folder: Path, names: list[str]) -> Path:
    """A checkpoint whose head has its own order of classes, and is right: more a's, or fewer."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    tiny_model(folder)
    logging.enable_progress_bar()
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"id2label": {str(i): name for i, name in enumerate(names)}}
    config |= {"label2id": {name: i for i, name in enumerate(names)}}
    path.write_text(json.dumps(config))
    return folder


def test_the_checkpoints_names_order_the_classes(tmp_path: Path) -> None:
    model, path = str(named(tmp_path / "model", ["MORE", "Less"])), str(tiny_task(tmp_path / "data"))
    task = open_task(path, Recipe(model, path))
    assert task.labels == ("more", "less")  # sorted, "less" would be class 0
    assert task.train.labels[:4].tolist() == [0, 1, 0, 1]
    run = d90.train(model, path, "bitfit", **OPTIONS)
    run.save(tmp_path / "task.d90")
    tuned = open_tune(tmp_path / "task.d90")
    assert tuned.labels == ["more", "less"]
    assert tuned.evaluate().score == pytest.approx(run.score)


def test_other_names_have_to_be_used_by_number(tmp_path: Path) -> None:
    model, path = str(named(tmp_path / "model", ["yes", "no"])), str(tiny_task(tmp_path / "data"))
    recipe = Recipe(model, path)
    task = open_task(path, recipe)
    assert task.labels == ("less", "more")
    notes = open_model(model, task, recipe).notes
    assert any("used by number" in note and "'yes' as 'less', 'no' as 'more'" in note for note in notes)


def test_labels_in_another_order_keep_their_examples() -> None:
    task = blobs()
    swapped = task.in_order([name.upper() for name in reversed(task.labels)])
    assert swapped.labels == tuple(reversed(task.labels))
    assert torch.equal(swapped.train.labels, len(task.labels) - 1 - task.train.labels)
    assert swapped.fingerprint != task.fingerprint
    assert swapped.in_order(task.labels).fingerprint == task.fingerprint
    assert task.in_order(["x", "y"]) is task


# --- networks of the user's own -----------------------------------------------------------------------------------------


def net(width: int = 8) -> nn.Module:
    task = blobs()
    assert isinstance(task.train.inputs, torch.Tensor)
    torch.manual_seed(0)
    size = task.train.inputs[0].numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, task.outputs))


@pytest.mark.parametrize("method", ["full", "bitfit", "full@d=30"])
def test_a_bare_network_trains(method: str) -> None:
    module = net()
    before = [p.detach().clone() for p in module.parameters()]
    run = d90.train(module, blobs(), method, epochs=4, lr=0.02, precision="fp32")
    assert run.score > run.outcome.zero_score
    assert run.recipe.model == "Sequential"
    run.release()
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_networks_under_one_name_share_no_trial() -> None:
    a, b, c = net(), net(9), net()
    with torch.no_grad():
        c[1].weight[0, 0] += 1
    marks = {Model("mine", module).fingerprint for module in (a, b, c)}
    assert len(marks) == 3
    assert Model("mine", net()).fingerprint in marks
    assert d90.Model is Model


def test_a_network_that_does_not_fit_the_task_is_one_line() -> None:
    with pytest.raises(InputError, match=r"gives outputs of shape \(2, 5\) for 2 images, expected \(2, "):
        d90.train(nn.Sequential(net(), nn.Linear(blobs().outputs, 5)), blobs())
    with pytest.raises(InputError, match="has lazy layers without weights yet"):
        d90.train(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), blobs())
    with pytest.raises(InputError, match="cannot take the images of task") as caught:
        d90.train(nn.Sequential(nn.Flatten(), nn.Linear(999, 2)), blobs())
    assert "\n" not in str(caught.value)


def test_a_bare_transformer_needs_its_tokenizer(tmp_path: Path) -> None:
    loaded = models.load(str(tiny_model(tmp_path / "base")), 2)
    path = str(tiny_task(tmp_path / "data"))
    with pytest.raises(InputError, match=r"needs its tokenizer: d90.Model\(name, net, tokenizer\)"):
        d90.train(loaded.module, path, "bitfit", **OPTIONS)
    mine = Model("mine", loaded.module, loaded.tokenizer, max_length=8)
    assert d90.train(mine, path, "bitfit", **OPTIONS).outcome.status == "finished"


# --- devices ------------------------------------------------------------------------------------------------------------


def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_device("cpu") == "cpu"
    with pytest.raises(InputError, match="got device 'cuda:99', expected one that torch sees on this machine: cpu"):
        check_device("cuda:99")
    monkeypatch.setenv("D90_DEVICE", "tpu")
    with pytest.raises(InputError, match="got device 'tpu'"):
        best_device()
    monkeypatch.setenv("D90_DEVICE", "cpu")
    assert best_device() == "cpu"


def test_padding_does_not_change_a_prediction(tmp_path: Path) -> None:
    """Also in a subspace, and without a mask: the row that stands for padding does not move."""
    model = models.load(str(tiny_model(tmp_path / "base")), 2)
    space = d90.Subspace(model.module, 20)
    with torch.no_grad():
        space.theta.normal_()
    space.flush()
    assert not model.module.bert.embeddings.word_embeddings.weight[0].any()  # type: ignore[union-attr]


def test_the_untrained_model_is_looked_at_once_for_trials_that_start_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is kept is what each would have seen; fresh weights of another seed are looked at themselves."""
    looks: list[Model] = []

    def counted(data: Data, split: str, precision: str) -> Assessment:
        looks.append(data.model)
        return assess(data, split, precision)

    monkeypatch.setattr("d90.training.data.assess", counted)

    def begun(data: Data, method: str) -> Evaluation:
        result, applied = fit(data, parse(method), recipe, progress=Progress())
        applied.release()
        return result.curve[0]

    task, network = blobs(), "mlp:16-32-3"
    recipe = make_recipe(network, task, parse("full"), TrainingOptions(**FAST))
    data = Data(models.load(network, 3), task)
    first = [begun(data, method) for method in ("full", "full@d=20", "bitfit")]
    assert (len(looks), len(set(first))) == (1, 1)
    alone = [begun(Data(models.load(network, 3, seed=seed), task), "full") for seed in (0, 1)]
    assert alone[0] == first[0]
    assert alone[1] != first[0]
    assert begun(data.for_model(models.load(network, 3, seed=1)), "bitfit") == alone[1]
    assert begun(data, "bitfit") == first[0]
    assert len(looks) == 4

    _, applied = fit(data, parse("full@d=20"), recipe, progress=Progress())
    further, _ = fit(data, parse("full@d=20"), recipe, progress=Progress(), applied_method=applied)
    assert further.curve[0].score > first[0].score, "a method trained further does not begin at the base"
