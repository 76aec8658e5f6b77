"""Any of several classes: lists and columns of 0 and 1, F1 and average precision as scikit-learn's, thresholds, merged folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import merge
from d90.tasks import load as load_task
from d90.tasks.kinds import MultiLabel
from d90.tasks.kinds.multilabel import best_thresholds
from d90.training.loading import open_tune
from tests.reference.command import run as cli
from tests.reference.rows import write_rows
from tests.reference.tiny import tiny_model

OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 8, "evaluations": 3, "lr": 0.02, "precision": "fp32"}
TEXTS = [("a a c", ["x"]), ("b b c", ["y"]), ("a b c", ["x", "y"]), ("c c c", [])]


def lists(count: int = 40, name: str = "labels") -> list[dict[str, Any]]:
    return [{"text": text, name: names} for text, names in (TEXTS * count)[:count]]


def learnable(count: int) -> list[dict[str, Any]]:
    """Without the text that takes two words to be told."""
    return [row for row in lists(2 * count) if row["text"] != "a b c"][:count]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a task and a tune of all weights."""
    path = tmp_path_factory.mktemp("multilabel")
    tiny_model(path / "base")
    write_rows(path / "data" / "train.jsonl", learnable(42))
    write_rows(path / "data" / "validation.jsonl", learnable(15))
    run = d90.train(str(path / "base"), str(path / "data"), "full", **{**OPTIONS, "epochs": 40})
    run.save(path / "task.d90")
    run.release()
    return path


# --- files ----------------------------------------------------------------------------------------------------------


def test_lists_one_hot_lists_and_columns_are_one_task(tmp_path: Path) -> None:
    task = load_task(write_rows(tmp_path / "a.jsonl", lists()))
    assert (task.kind.name, task.labels, task.metric, task.outputs) == ("multi-label", ("x", "y"), "f1_micro", 2)
    assert load_task(write_rows(tmp_path / "b.jsonl", lists(name="label"))).fingerprint == task.fingerprint
    rows = [{"text": row["text"], "x": int("x" in row["labels"]), "y": int("y" in row["labels"])} for row in lists()]
    assert load_task(write_rows(tmp_path / "c.jsonl", rows)).fingerprint == task.fingerprint
    with (tmp_path / "d.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["text", "x", "y"])
        table.writeheader()
        table.writerows(rows)
    assert load_task(str(tmp_path / "d.csv")).fingerprint == task.fingerprint
    assert load_task(str(tmp_path / "d.csv"), label="x,y").fingerprint == task.fingerprint
    hot = [{"text": row["text"], "label": [row["x"], row["y"]]} for row in rows]
    found = load_task(write_rows(tmp_path / "e.jsonl", hot))
    assert torch.equal(found.train.labels, task.train.labels)
    assert "examples have no class" in " ".join(task.shown_notes)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a", "labels": "x"}, "line 9: column 'labels' holds no list"),
        ({"text": "a", "labels": ["x", None]}, "line 9: 'None' among the classes"),
        ({"text": "a"}, "line 9: column 'labels' holds no list"),
    ],
)
def test_a_row_without_a_list_is_refused_with_its_line(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_task(write_rows(tmp_path / "a.jsonl", [*lists(8), row]))


def test_other_bad_input_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "v" / "train.jsonl", lists(8))
    write_rows(tmp_path / "v" / "validation.jsonl", [*lists(3), {"text": "a", "labels": ["z"]}])
    with pytest.raises(
        InputError, match=r"validation.jsonl', line 4: label 'z' is not among the 2 training labels x, y"
    ):
        load_task(str(tmp_path / "v"))
    with pytest.raises(InputError, match="every class stands at all"):
        load_task(write_rows(tmp_path / "all.jsonl", [{"text": "a", "labels": ["x"]}] * 12))
    rows = [{"text": "a", "x": 1, "y": 0}, {"text": "b", "x": 0, "y": 2}] * 8
    with pytest.raises(InputError, match="line 2: column 'y' holds '2', expected 0 or 1"):
        load_task(write_rows(tmp_path / "two.jsonl", rows), label="x,y", kind="multi-label")
    with pytest.raises(InputError, match="neither a list of classes nor two columns of 0 and 1; it has text, label"):
        load_task(write_rows(tmp_path / "one.jsonl", [{"text": "a", "label": "x"}] * 9), kind="multi-label")


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["f1_micro", "f1_macro", "average_precision"])
def test_scores_are_scikit_learns(metric: str) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    kind = MultiLabel(("a", "b", "c", "d")).scored_by(metric)
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(50, 4, generator=generator) < torch.tensor([0.5, 0.2, 0.1, 0.0])).float()
    outputs = torch.randn(50, 4, generator=generator) + labels
    theirs = (
        sklearn.average_precision_score(labels, outputs, average="micro")
        if metric == "average_precision"
        else sklearn.f1_score(labels, outputs > 0, average=metric.removeprefix("f1_"), zero_division=0)
    )
    assert kind.score(metric, outputs, labels) == pytest.approx(theirs)


def test_thresholds_are_where_f1_is_best() -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    shares = torch.tensor([[0.4, 0.1], [0.3, 0.2], [0.2, 0.3], [0.1, 0.4]])
    assert best_thresholds(shares, labels) == pytest.approx((0.25, 0.5))
    kind = MultiLabel(("a", "b")).calibrated(torch.logit(shares), labels)
    assert kind.describe(torch.logit(shares[1]))["labels"] == ["a"]
    assert MultiLabel(("a", "b")).restored(kind.record) == kind


# --- tunes ----------------------------------------------------------------------------------------------------------


def test_a_planted_rule_is_learnt_and_predict_names_the_classes(folder: Path) -> None:
    tuned = open_tune(folder / "task.d90")
    assert tuned.evaluate().score == pytest.approx(json.loads((folder / "task.json").read_text())["outcome"]["score"])
    assert tuned.evaluate().score > load_task(str(folder / "data")).chance()
    assert tuned.evaluate().loss < 0.35
    assert tuned.evaluate(metric="average_precision").score > 0.95
    done = cli("predict", str(folder / "task.d90"), "a a c", "c c c", "--format", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [sorted(row["labels"]) for row in rows] == [["x"], []]
    assert set(rows[0]["probabilities"]) == {"x", "y"}
    table = cli("predict", str(folder / "task.d90"), "a a c", "--format", "csv").stdout.splitlines()
    assert table[0] == "text,labels,p(x),p(y)"


@pytest.mark.filterwarnings("ignore:.*")
def test_a_merged_folder_opens_in_a_pipeline_with_the_same_probabilities(folder: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    out = merge(folder / "task.d90", tmp_path / "model")
    found = pipeline("text-classification", model=str(out), top_k=None)("a b c")
    found = found[0] if isinstance(found[0], list) else found
    ours = open_tune(folder / "task.d90").describe([("a b c",)])[0]["probabilities"]
    assert {row["label"]: row["score"] for row in found} == pytest.approx(ours, abs=1e-5)


def test_a_checkpoint_whose_classes_stand_in_another_order_keeps_its_head(folder: Path, tmp_path: Path) -> None:
    out = merge(folder / "task.d90", tmp_path / "model")
    config = json.loads((out / "config.json").read_text())
    config |= {"id2label": {"0": "y", "1": "x"}, "label2id": {"y": 0, "x": 1}}
    (out / "config.json").write_text(json.dumps(config))
    run = d90.train(str(out), str(folder / "data"), "bitfit", **{**OPTIONS, "epochs": 1})
    assert run.task.labels == ("y", "x")
    assert run.outcome.zero_score < 0.9, "its head puts out what it calls y first"
    counts = {part: split.labels.sum(dim=0).tolist() for part, split in run.task.splits.items()}
    assert counts["train"] == [14.0, 14.0]
    first = run.task.train.inputs.index(("a a c",))  # type: ignore[union-attr]
    assert run.task.train.labels[first].tolist() == [0.0, 1.0]
    run.release()


@pytest.mark.parametrize("method", ["full@d=40", "lora:r=2,targets=all"])
def test_a_method_trains_saves_and_opens_again(folder: Path, tmp_path: Path, method: str) -> None:
    run = d90.train(str(folder / "base"), str(folder / "data"), method, **{**OPTIONS, "epochs": 15})
    assert run.outcome.curve[-1].loss < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate().score == pytest.approx(score)
