"""Pictures: class folders and image columns, files that are broken or odd, tunes of a vision transformer, merged folders."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import merge
from d90.models.loading import load as load_model
from d90.tasks import load as load_task
from d90.tasks.kinds import Pictures
from d90.tasks.pictures import decode
from d90.training.batches import Batches, outputs_of
from d90.training.loading import open_tune
from tests.reference.command import run as cli
from tests.reference.tiny import tiny_model

Image = pytest.importorskip("PIL.Image")
OPTIONS: dict[str, Any] = {"epochs": 6, "batch_size": 8, "evaluations": 2, "lr": 5e-3, "precision": "fp32"}
CLASSES = ("dark", "light", "red")


def picture(name: str, i: int, size: tuple[int, int] = (12, 12)) -> Any:
    draw = numpy.random.default_rng(i)
    pixels = draw.integers(0, 60, (*size, 3)) + {"dark": 0, "light": 190, "red": 0}[name]
    pixels[..., 0] += 190 * (name == "red")
    return Image.fromarray(pixels.astype("uint8"))


def folders(where: Path, count: int = 10, classes: tuple[str, ...] = CLASSES) -> Path:
    for name in classes:
        (where / name).mkdir(parents=True)
        for i in range(count):
            picture(name, i).save(where / name / f"{i}.png")
    return where


def vit(where: Path) -> Path:
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    t.ViTForImageClassification(t.ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(where)
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 8, "width": 8}, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
    }  # fmt: skip
    (where / "preprocessor_config.json").write_text(json.dumps(settings))
    return where


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer, class folders, and a tune of all weights."""
    path = tmp_path_factory.mktemp("pictures")
    vit(path / "vit")
    folders(path / "data")
    run = d90.train(str(path / "vit"), str(path / "data"), "full", **OPTIONS)
    run.save(path / "task.d90")
    run.release()
    return path


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders_is_a_task_in_one_split_or_three(tmp_path: Path) -> None:
    task = load_task(str(folders(tmp_path / "one")))
    assert (task.kind.name, task.labels, task.metric, task.texts) == ("image-classification", CLASSES, "accuracy", 1)
    assert (len(task.train), len(task.validation)) == (27, 3)
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        folders(tmp_path / "three" / part, count)
    task = load_task(str(tmp_path / "three"))
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 15, "validation": 9, "test": 6}
    assert task.limit(3).train.labels.tolist() == [0, 1, 2], "a limit takes as many of each class"


def test_the_hash_is_of_the_pictures_and_their_labels_not_of_where_they_lie(tmp_path: Path) -> None:
    first, again = (load_task(str(folders(tmp_path / name))).fingerprint for name in ("a", "b"))
    assert first == again
    picture("red", 99).save(tmp_path / "b" / "red" / "3.png")
    assert load_task(str(tmp_path / "b")).fingerprint != first


def test_columns_of_images_are_the_same_task(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    where = folders(tmp_path / "folders")
    rows = [(where / name / f"{i}.png", name) for i in range(10) for name in CLASSES]
    task = load_task(str(where))
    table = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path, _ in rows],
        "label": [n for _, n in rows],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"image": str(path.relative_to(tmp_path)), "label": name}) + "\n" for path, name in rows)
    )
    for name in ("t.parquet", "t.jsonl"):
        assert load_task(str(tmp_path / name)).fingerprint == task.fingerprint


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_pictures_of_every_mode_and_size_are_read(tmp_path: Path, mode: str) -> None:
    if mode in ("I;16", "F"):
        values = numpy.linspace(0, 65535, 12 * 9).reshape(9, 12)
        image = Image.fromarray(values.astype("uint16" if mode == "I;16" else "float32"))
    else:
        image = picture("light", 1, (9, 12)).convert(mode)
    held = io.BytesIO()
    image.save(held, "JPEG" if mode in ("CMYK", "YCbCr") else "TIFF" if mode == "F" else "PNG")
    found = decode(base64.b64encode(held.getvalue()).decode())
    assert found.mode in ("L", "RGB")
    assert found.size == (12, 9)
    if mode in ("I;16", "F"):
        assert abs(numpy.asarray(found).mean() - 127.5) < 1, "sixteen bits are scaled, not cut at 255"


def test_a_broken_picture_is_refused_with_its_place(tmp_path: Path) -> None:
    where = folders(tmp_path)
    whole = (where / "red" / "3.png").read_bytes()
    for content, why in (
        (whole[: len(whole) // 2], "broken picture"),
        (b"GIF89a", "broken picture"),
        (b"", "broken picture"),
    ):
        (where / "red" / "3.png").write_bytes(content)
        with pytest.raises(InputError, match=rf"red/3.png: {why}"):
            load_task(str(where))


def test_empty_class_folders_unknown_classes_and_classes_that_validation_lacks(tmp_path: Path) -> None:
    folders(tmp_path / "a" / "train")
    folders(tmp_path / "a" / "validation", 3, ("dark", "light"))
    assert "validation: no picture of the class red" in load_task(str(tmp_path / "a")).shown_notes
    folders(tmp_path / "b" / "train", 3, ("dark", "light"))
    folders(tmp_path / "b" / "validation", 3)
    with pytest.raises(InputError, match=r"red/0.png: label 'red' is not among the 2 training labels dark, light"):
        load_task(str(tmp_path / "b"))
    (folders(tmp_path / "c") / "empty").mkdir()
    with pytest.raises(InputError, match="empty': no picture in this class folder"):
        load_task(str(tmp_path / "c"))
    (folders(tmp_path / "d") / "red" / "notes.txt").write_text("x")
    assert any(
        "1 files that are no pictures were passed over" in note for note in load_task(str(tmp_path / "d")).shown_notes
    )


def test_models_of_the_other_kind_of_input_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="cannot serve a task of kind image-classification"):
        d90.train(str(tiny_model(tmp_path / "bert")), str(folder / "data"))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": "a", "label": i % 2}) + "\n" for i in range(20)))
    with pytest.raises(InputError, match="cannot serve a task of kind classification"):
        d90.train(str(folder / "vit"), str(tmp_path / "t.jsonl"))


# --- tunes ----------------------------------------------------------------------------------------------------------


def test_neighbours_in_a_batch_change_nothing(folder: Path) -> None:
    model = load_model(str(folder / "vit"), 3, Pictures(CLASSES))
    model.module.eval()
    batches = Batches(model, load_task(str(folder / "data")).train, Pictures(CLASSES))
    with torch.no_grad():
        whole = outputs_of(model.module, batches.inputs(torch.arange(4)), batches.kind)
        for i in range(4):
            alone = outputs_of(model.module, batches.inputs(torch.tensor([i])), batches.kind)
            torch.testing.assert_close(whole[i], alone[0], rtol=0, atol=1e-5)


def test_a_planted_rule_is_learnt_and_predict_names_the_classes(folder: Path) -> None:
    tuned = open_tune(folder / "task.d90")
    assert tuned.evaluate().score == 1.0
    assert tuned.evaluate(metric="top5").score == 1.0
    paths = [str(folder / "data" / name / "0.png") for name in CLASSES]
    done = cli("predict", str(folder / "task.d90"), *paths, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["image"], row["label"]) for row in rows] == list(zip(paths, CLASSES, strict=True))
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    (folder / "list.txt").write_text("\n".join(paths))
    table = cli("predict", str(folder / "task.d90"), "--file", str(folder / "list.txt"), "--format", "csv")
    assert [row["label"] for row in csv.DictReader(io.StringIO(table.stdout))] == list(CLASSES)
    wrong = cli("predict", str(folder / "task.d90"), str(folder / "none.png"))
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.filterwarnings("ignore:.*")
def test_a_merged_folder_opens_in_a_pipeline_with_the_same_classes(folder: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    out = merge(folder / "task.d90", tmp_path / "model")
    paths = [str(folder / "data" / name / "1.png") for name in CLASSES]
    found = pipeline("image-classification", model=str(out))(paths)
    ours = open_tune(folder / "task.d90").describe([(path,) for path in paths])
    for theirs, mine in zip(found, ours, strict=True):
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(mine["probabilities"], abs=1e-5)


@pytest.mark.parametrize("method", ["full@d=40", "lora:r=2", "bitfit", "adapter:r=4", "pafi:fraction=0.2", "top:n=1"])
def test_every_method_that_fits_trains_and_opens_again(folder: Path, tmp_path: Path, method: str) -> None:
    run = d90.train(str(folder / "vit"), str(folder / "data"), method, **{**OPTIONS, "epochs": 10, "lr": 5e-3})
    assert run.outcome.curve[-1].loss < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate().score == pytest.approx(score)


@pytest.mark.filterwarnings("ignore:.*")
def test_a_network_of_timm_trains_with_a_fresh_head_and_merges(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed: pip install 'd90[timm]'", exc_type=ImportError)
    import transformers as t

    torch.manual_seed(0)
    shape = {
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    config = t.TimmWrapperConfig.from_dict({"architecture": "resnet10t", "num_classes": 2, "pretrained_cfg": shape})
    t.TimmWrapperForImageClassification(config).save_pretrained(tmp_path / "base")
    data = str(folders(tmp_path / "data"))
    run = d90.train(str(tmp_path / "base"), data, "full@d=20", **{**OPTIONS, "epochs": 1})
    assert any("fc" in name for name in run.model.fresh)
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate().score == pytest.approx(score)
    assert (merge(tmp_path / "t.d90", tmp_path / "model") / "config.json").is_file()


def test_another_processor_is_another_base(folder: Path, tmp_path: Path) -> None:
    one = load_model(str(folder / "vit"), 3, Pictures(CLASSES)).fingerprint
    settings = json.loads((vit(tmp_path / "vit") / "preprocessor_config.json").read_text())
    assert load_model(str(tmp_path / "vit"), 3, Pictures(CLASSES)).fingerprint == one
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.4] * 3}))
    assert load_model(str(tmp_path / "vit"), 3, Pictures(CLASSES)).fingerprint != one


def test_a_network_of_your_own_takes_plain_pixels(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 3))
    run = d90.train(
        d90.Model("own", net), load_task(str(folders(tmp_path))), "full", **{**OPTIONS, "epochs": 20, "lr": 1e-3}
    )
    assert run.outcome.curve[-1].loss < run.outcome.curve[0].loss
    run.release()
