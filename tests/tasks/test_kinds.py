"""Kinds of task: the contract that each keeps, and one from outside the package in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import d90
from d90 import tasks
from d90.errors import InputError
from d90.models.loading import load as load_model
from d90.registry import Registry
from d90.search import rules
from d90.tasks import Split, Task, TaskKind, kinds, metrics
from d90.tasks.columns import Columns, Table
from d90.tasks.kinds import (
    Classification,
    Images,
    ImageValues,
    Language,
    Pictures,
    Reading,
    Regression,
    Seq2Seq,
    Tokens,
    stored_kind,
)
from d90.tasks.kinds.tokens import NO_TAG, UNSEEN
from d90.training.batches import Batches
from d90.training.loading import open_tune
from tests.reference.tiny import tiny_model

TEXTS = [(f"t{i}",) for i in range(12)]
CLASSES = torch.tensor([0, 1, 1, 2] * 3)
VALUES = torch.tensor([1.5, 2.0, 4.0, 8.5] * 3)
TAGS = torch.tensor([[0, 1, 2], [2, 2, NO_TAG], [0, 2, 0], [2, NO_TAG, NO_TAG]] * 3)
WORDS = [tuple(f"w{i}{j}" for j in range(int((row >= 0).sum()))) for i, row in enumerate(TAGS)]
FLAGS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]] * 3)
SPANS = torch.tensor([[[2, 5]], [[-2, -2]], [[6, 7]], [[0, 7]]] * 3)
# tokens: the mark for none, then "a bcd e" in three words; begin and end are told apart by large logits
SPOTS = torch.tensor(
    [
        [(40.0 * (low == a), 40.0 * (high == b), low, high, 0) for low, high in ((-2, -2), (0, 1), (2, 5), (6, 7))]
        for (a, b) in SPANS[:, 0].tolist()
    ]
)
DOCUMENTS = torch.zeros(12, dtype=torch.int64)

# kind, its labels, outputs that are right
KINDS: dict[str, tuple[TaskKind, Tensor, Tensor]] = {
    "classification": (Classification(("a", "b", "c")), CLASSES, 40 * torch.eye(3)[CLASSES]),
    "images": (Images(("a", "b", "c")), CLASSES, 40 * torch.eye(3)[CLASSES]),
    "image-classification": (Pictures(("a", "b", "c")), CLASSES, 40 * torch.eye(3)[CLASSES]),
    "regression": (Regression(mean=4.0, deviation=2.0), VALUES, ((VALUES - 4.0) / 2.0)[:, None]),
    "language": (Language(), DOCUMENTS, torch.zeros(12, 5)),
    "seq2seq": (Seq2Seq(), DOCUMENTS, torch.zeros(12, 5)),
    "multi-label": (kinds.MultiLabel(("a", "b", "c")), FLAGS, 40 * (2 * FLAGS - 1)),
    "question-answering": (kinds.Answering(unanswerable=True), SPANS, SPOTS),
    "embeddings": (kinds.Embeddings(), torch.zeros(12), torch.eye(12)[:, None].expand(-1, 2, -1)),
    "multiple-choice": (kinds.Choices(), CLASSES, 40 * torch.eye(3)[CLASSES]),
    "masked": (kinds.Masked(), DOCUMENTS, torch.zeros(12, 5)),
    "tokens": (
        Tokens(("B-x", "I-x", "O")),
        TAGS,
        (40 * torch.eye(3)[TAGS.clamp(min=0)]).where(TAGS[..., None] >= 0, UNSEEN),
    ),
}
EACH = pytest.mark.parametrize("name", KINDS)


def _task(name: str, metric: str | None = None) -> Task:
    kind, labels, _ = KINDS[name]
    texts = {
        "tokens": WORDS,
        "seq2seq": [(text, text) for (text,) in TEXTS],
        "multiple-choice": [(t, "a", "b", "c") for (t,) in TEXTS],
    }.get(name, TEXTS)
    inputs: Any = torch.rand(12, 1, 2, 2) if kind.takes == "images" else texts
    split = Split(inputs, labels)
    return Task("t", kind, kind.labels, metric or kind.own_metric, split, split)


@EACH
def test_perfect_outputs_score_the_maximum_and_lose_nothing(name: str) -> None:
    kind, labels, right = KINDS[name]
    metrics = ("recall_1", "recall_10") if name == "embeddings" else kind.metrics  # correlations are of numbers
    for metric in (*metrics, "loss"):
        kind = kind.scored_by(metric)
        if metric != "f1" and not kind.asks(metric):
            assert kind.score(metric, right, labels) == pytest.approx(0.0 if metric == "loss" else 1.0, abs=1e-6)
    kind = kind.scored_by("loss")
    assert torch.allclose(kind.predict(right).float(), labels.float())


@EACH
def test_the_mean_loss_is_the_mean_of_each_examples(name: str) -> None:
    kind, labels, right = KINDS[name]
    outputs = (right.abs() + torch.rand_like(right)).where(right != kind.filler, right)
    outputs = right if name == "question-answering" else outputs  # most of it says where tokens stand
    each = kind.losses(outputs, labels)
    assert each.shape == (12,)
    assert kind.loss(outputs, labels).item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert kind.training_loss(outputs, labels).item() * kind.unit == pytest.approx(each.mean().item(), rel=1e-5)


@EACH
def test_the_constant_guess_scores_chance(name: str) -> None:
    kind, labels, _ = KINDS[name]
    guesses = {
        "classification": [torch.tensor([0.0, 9.0, 0.0]), torch.tensor([0.25, 0.5, 0.25]).log()],
        "regression": [torch.zeros(1), (VALUES.mean() - 4.0).reshape(1) / 2.0],
        "language": [None, torch.tensor([3.0]).log()],
        "seq2seq": [None, torch.tensor([3.0]).log()],
        "question-answering": [None, None],
        "masked": [None, None],
        "multiple-choice": [torch.tensor([0.0, 9.0, 0.0]), torch.tensor([0.25, 0.5, 0.25]).log()],
        "embeddings": [torch.full((2, 4), 0.5), torch.full((2, 4), 0.5)],
        "multi-label": [torch.tensor([9.0, -9.0, -9.0]), torch.logit(torch.tensor([0.75, 0.25, 0.25]))],
        "tokens": [torch.tensor([0.0, 0.0, 9.0]), (torch.tensor([3.0, 1.0, 5.0]) / 9).log()],
    }
    best, for_loss = guesses["classification" if name.startswith("image") else name]
    shape = {"multi-label": (12, -1), "embeddings": (12, -1, -1)}.get(name, (*labels.shape, -1))
    if for_loss is None:
        return  # a commonest answer is a text: in the kind's own tests
    assert kind.score("loss", for_loss.expand(shape), labels) == pytest.approx(
        kind.chance("loss", labels, labels, vocabulary=3), rel=1e-5
    )
    if best is not None:
        assert kind.score(kind.own_metric, best.expand(shape), labels) == kind.chance(kind.own_metric, labels, labels)


@EACH
def test_limits_nest_and_the_hash_covers_inputs_and_labels(name: str) -> None:
    task = _task(name)
    assert len(task.limit(8).train) == 8
    assert task.limit(8).limit(4).fingerprint == task.limit(4).fingerprint != task.limit(8).fingerprint
    changed = task.train.labels.clone()
    changed.view(-1)[0] += 1
    split = Split(task.train.inputs, changed)
    assert Task("t", task.kind, task.labels, task.metric, split, task.validation).fingerprint != task.fingerprint


@EACH
def test_a_kind_is_found_again_by_what_is_stored(name: str) -> None:
    kind = KINDS[name][0]
    again = stored_kind(kind.stored, kind.takes == "images", kind.labels).restored({**kind.record})
    assert again == kind or (isinstance(kind, Classification) and again.labels == kind.labels)
    assert type(again) is type(kind)
    json.dumps(kind.describe(KINDS[name][2][0]))


def test_tunes_written_before_regressions_were_standardised_keep_their_unit() -> None:
    assert stored_kind("regression", False, ()).restored({}) == Regression(mean=0.0, deviation=1.0)


def test_unknown_kinds_and_names_taken_twice_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown kind of task 'classifcation'.*Did you mean 'classification'"):
        kinds.find_kind("classifcation")

    class Twin(Classification):
        pass

    with pytest.raises(InputError, match="'classification' is there already"):
        tasks.register_kind(Twin)


def test_a_split_of_images_has_the_kind_for_images() -> None:
    images = torch.rand(12, 1, 2, 2)
    for kind, labels, wanted in (
        (Classification(("a", "b", "c")), CLASSES, Images),
        (Regression(), VALUES, ImageValues),
    ):
        task = Task("t", kind, kind.labels, kind.own_metric, Split(images, labels), Split(images, labels))
        assert type(task.kind) is wanted
        assert (task.texts, task.kind.from_scratch, task.kind.stored) == (0, True, kind.stored)


def test_batches_hold_the_ids_that_they_always_held(tmp_path: Path) -> None:
    """Written down before collating became the kind's own: stored runs were trained on these."""
    model = load_model(str(tiny_model(tmp_path)), 2, max_length=8)
    texts = [("a b", "c"), ("a", ""), ("b c a a a b c a", "a b"), ("c", "[SEP]")]
    batches = Batches(model, Split(texts, torch.tensor([0, 1, 0, 1])))
    batch = batches.inputs(torch.tensor([2, 0, 1, 3]))
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [
            [2, 5, 6, 4, 3, 4, 5, 3],
            [2, 4, 5, 3, 6, 3, 0, 0],
            [2, 4, 3, 3, 0, 0, 0, 0],
            [2, 6, 3, 1, 1, 1, 3, 0],
        ],
        "attention_mask": [[1] * 8, [1] * 6 + [0] * 2, [1] * 4 + [0] * 4, [1] * 7 + [0]],
        "token_type_ids": [
            [0] * 5 + [1] * 3,
            [0] * 4 + [1] * 2 + [0] * 2,
            [0] * 3 + [1] + [0] * 4,
            [0] * 3 + [1] * 4 + [0],
        ],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert batches.truncated == 1


# --- a kind from outside -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MultiLabel(TaskKind):
    """Any of several classes; the mean over classes of binary cross-entropies."""

    name: ClassVar[str] = "multi-label"
    stored: ClassVar[str] = "multi-label"
    summary: ClassVar[str] = "any of several classes for a text"
    problem: ClassVar[str | None] = "multi_label_classification"

    @classmethod
    def recognises(cls, table: Table, columns: Columns) -> bool:
        return isinstance(table.rows[0].get(columns.label), list)

    @classmethod
    def read(cls, tables: Mapping[str, Table], columns: Columns, given: bool) -> Reading:
        names = sorted({name for row in tables["train"].rows for name in row[columns.label]})
        splits = {}
        for part, table in tables.items():
            held = [[float(name in row[columns.label]) for name in names] for row in table.rows]
            splits[part] = Split(columns.texts(table), torch.tensor(held))
        return Reading(cls(tuple(names)), splits)

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        found = torch.nn.functional.binary_cross_entropy_with_logits(outputs.float(), labels, reduction="none")
        return found.mean(dim=1)

    def predict(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).long()

    def describe(self, output: Tensor, example: tuple[str, ...] = ()) -> dict[str, Any]:
        shares = dict(zip(self.labels, output.float().sigmoid().tolist(), strict=True))
        return {"labels": [name for name, share in shares.items() if share > 0.5], "probabilities": shares}

    def chance(self, metric: str, train: Tensor, labels: Tensor, vocabulary: int | None = None) -> float:
        return self.score(metric, torch.logit(train.mean(dim=0), eps=1e-3).expand(len(labels), -1), labels)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    others = {
        name: kind for name, kind in kinds.KINDS.items() if name != "multi-label"
    }  # the name is a test's own here
    monkeypatch.setattr(kinds, "KINDS", Registry("kind of task", "d90.kinds", others))
    monkeypatch.setattr(rules, "SCALES", dict(rules.SCALES))
    with metrics.METRICS.scope():
        yield


def _data(folder: Path) -> Path:
    rows = [("a a b", ["a", "b"]), ("a c a", ["a"]), ("b b c", ["b"]), ("c c c", [])] * 6
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": t, "label": names}) + "\n" for t, names in rows))
    return folder / "data.jsonl"


def test_a_kind_of_your_own_trains_saves_opens_and_predicts(registry: None, tmp_path: Path) -> None:
    path = _data(tmp_path)
    with pytest.raises(InputError, match="column 'label' holds a list"):
        tasks.load(str(path))
    tasks.register_kind(MultiLabel)
    task = tasks.load(str(path))
    assert (task.kind.name, task.labels, task.outputs, task.metric) == ("multi-label", ("a", "b"), 2, "loss")
    tiny_model(tmp_path / "base")
    run = d90.train(
        str(tmp_path / "base"), str(path), "full", epochs=10, batch_size=4, evaluations=2, lr=0.01, precision="fp32"
    )
    assert run.score > task.chance(), "it learns"
    run.save(tmp_path / "task.d90")
    run.release()
    tuned = open_tune(tmp_path / "task.d90")
    assert tuned.kind == MultiLabel(("a", "b"))
    assert tuned.evaluate().loss == pytest.approx(-run.score, rel=1e-4)
    described = tuned.describe([("a a b",)])[0]
    assert set(described["probabilities"]) == {"a", "b"}
    with pytest.raises(InputError, match="is a multi-label; a bound on the error rate needs classes"):
        d90.certify(str(tmp_path / "base"), str(path), "full@d=4", store=tmp_path / "s.sqlite")


def test_a_metric_of_your_own_scores_a_kind_and_rules_go_by_what_it_is(registry: None, tmp_path: Path) -> None:
    tasks.register_metric(
        "all-right", lambda predicted, labels: (predicted == labels).all(1).double().mean().item(), share=True
    )
    tasks.register_metric("odd", lambda predicted, labels: 1.0, correlation=True)

    @tasks.register_kind
    @dataclass(frozen=True)
    class Scored(MultiLabel):
        name: ClassVar[str] = "multi-scored"
        metrics: ClassVar[tuple[str, ...]] = ("all-right", "odd")

    task = tasks.load(str(_data(tmp_path)), kind="multi-scored")
    assert task.metric == "all-right"
    outputs = 9 * (task.validation.labels - 0.5)
    assert task.score(outputs) == 1
    assert task.score(-outputs) == 0
    assert tasks.load(str(_data(tmp_path)), kind="multi-scored", metric="odd").score(outputs) == 1
    assert rules.choose_rule(None, "all-right", 0.9, None) == "paper"
    assert rules.choose_rule(None, "odd", 0.9, None) == "gain"
    with pytest.raises(InputError, match="margin rule for all-right, expected one of accuracy, f1, matthews"):
        rules.choose_rule(None, "all-right", 0.9, 1.0)
    with pytest.raises(InputError, match="metric 'accuracy' is there already"):
        tasks.register_metric("accuracy", lambda predicted, labels: 0.0)
    with pytest.raises(InputError, match=r"unknown metric 'al-right'.*Did you mean 'all-right'"):
        tasks.load(str(_data(tmp_path)), kind="multi-scored", metric="al-right")


def test_a_kind_may_come_by_an_entry_point(registry: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point = EntryPoint("multi-label", f"{__name__}:MultiLabel", "d90.kinds")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point] if group == "d90.kinds" else [])
    assert "multi-label" in tasks.kind_names()
    assert tasks.load(str(_data(tmp_path))).kind.name == "multi-label"


def test_two_kinds_that_fit_are_asked_about(registry: None, tmp_path: Path) -> None:
    tasks.register_kind(MultiLabel)

    @dataclass(frozen=True)
    class Tags(MultiLabel):
        name: ClassVar[str] = "tags"

    tasks.register_kind(Tags)
    with pytest.raises(InputError, match="it looks like multi-label and tags; say which with --kind"):
        tasks.load(str(_data(tmp_path)))
    assert tasks.load(str(_data(tmp_path)), kind="tags").kind.name == "tags"


def test_texts_that_are_plain_strings_are_examples_of_one_text() -> None:
    labels = torch.tensor([0, 1])
    plain, usual = Split(["a b", "b"], labels), Split([("a b",), ("b",)], labels)
    made = [Task("mine", "classification", ("x", "y"), "accuracy", split, split) for split in (plain, usual)]
    assert made[0].train.inputs == made[1].train.inputs
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].texts == 1
