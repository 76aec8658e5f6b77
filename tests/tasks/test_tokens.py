"""A tag for each word: files, tags beside tokens, entities as seqeval counts them, tunes and merged folders."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import merge
from d90.models.loading import load as load_model
from d90.tasks import load as load_task
from d90.tasks.kinds import Tokens
from d90.tasks.kinds.tokens import NO_TAG, UNSEEN, entities
from d90.training.batches import Batches, outputs_of
from d90.training.loading import open_tune
from d90.training.loop import predict
from tests.reference.command import run as cli
from tests.reference.rows import write_split
from tests.reference.tiny import tiny_model

RULE = {"a": "B-x", "b": "I-x", "c": "O"}  # what each word's tag is
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 8, "evaluations": 3, "lr": 0.02, "precision": "fp32"}


def sentences(count: int, seed: int = 0) -> list[dict[str, list[str]]]:
    draw = random.Random(seed)
    rows = [["a", "b", "c"], *(draw.choices("abc", k=draw.randint(1, 6)) for _ in range(count - 1))]
    return [{"tokens": words, "tags": [RULE[word] for word in words]} for words in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a task, and a tune of all weights."""
    path = tmp_path_factory.mktemp("tokens")
    tiny_model(path / "base")
    write_split(path / "data", sentences(60))
    write_split(path / "data", sentences(30, seed=1), "validation.jsonl")
    run = d90.train(str(path / "base"), str(path / "data"), "full", **OPTIONS)
    run.save(path / "task.d90")
    run.release()
    return path


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tags", "ner_tags", "labels"])
def test_lists_of_words_and_tags_are_recognised(tmp_path: Path, name: str) -> None:
    rows = [{"id": i, "tokens": row["tokens"], name: row["tags"]} for i, row in enumerate(sentences(20))]
    task = load_task(write_split(tmp_path, rows))
    assert (task.kind.name, task.labels, task.metric) == ("tokens", ("B-x", "I-x", "O"), "entity_f1")
    assert task.train.inputs[0] == ("a", "b", "c")
    assert task.train.labels[0, :4].tolist() == [0, 1, 2, NO_TAG]
    assert len(task.train) + len(task.validation) == 20


@pytest.mark.parametrize("packed", [False, True])
def test_conll_files_are_the_same_task(tmp_path: Path, packed: bool) -> None:
    rows = sentences(20)
    text = "-DOCSTART- -X- O O\n\n"
    for i, row in enumerate(rows):
        text += f"# sent_id = {i}\n" * (i % 2)
        text += "".join(f"{w} NN X {t}\n" for w, t in zip(row["tokens"], row["tags"], strict=True)) + "\n" * (1 + i % 2)
    tmp_path.mkdir(exist_ok=True)
    data = text.encode()
    path = tmp_path / ("t.conll.gz" if packed else "t.conll")
    path.write_bytes(gzip.compress(data) if packed else data)
    (tmp_path / "j").mkdir()
    assert load_task(str(path)).fingerprint == load_task(write_split(tmp_path / "j", rows)).fingerprint


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"tokens": ["a", "b"], "tags": ["O"]}], "line 3: 2 words and 1 tags, expected a tag for each word"),
        ([{"tokens": [], "tags": []}], "line 3: no word"),
        ([{"tokens": ["a", 3], "tags": ["O", "O"]}], "line 3: '3' among the words"),
        ([{"tokens": ["a", "b"], "tags": ["O", None]}], "line 3: 'None' among the tags"),
        ([{"tokens": ["a"], "tags": "O"}], "line 3: column 'tags' holds no list"),
    ],
)
def test_a_row_that_is_no_tagged_sentence_is_refused_with_its_line(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_task(write_split(tmp_path, [*sentences(2), *rows]))


def test_a_tag_that_only_validation_has_is_refused_with_its_line(tmp_path: Path) -> None:
    write_split(tmp_path, sentences(9))
    write_split(tmp_path, [*sentences(3), {"tokens": ["a"], "tags": ["B-y"]}], "validation.jsonl")
    with pytest.raises(InputError, match=r"validation.jsonl', line 4: label 'B-y' is not among the 3 training labels"):
        load_task(str(tmp_path))


def test_a_conll_line_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.conll").write_text("a X O\nb O\n")
    with pytest.raises(InputError, match="line 2: 2 columns, expected 3 as in the lines before"):
        load_task(str(tmp_path / "t.conll"))
    (tmp_path / "t.conll").write_text("a\nb\n")
    with pytest.raises(InputError, match="line 1: 1 columns, expected a word and its tag"):
        load_task(str(tmp_path / "t.conll"))


def test_an_inside_tag_without_its_beginning_is_counted_and_reported(tmp_path: Path) -> None:
    rows = [*sentences(20)[:1], {"tokens": ["c", "b", "b"], "tags": ["O", "I-x", "I-x"]}, *sentences(8)[:1]] * 4
    task = load_task(write_split(tmp_path, rows))
    assert "train: 4 I- tags follow no tag of their entity" in " ".join(task.shown_notes)


def test_tags_that_mark_no_entities_are_scored_by_accuracy(tmp_path: Path) -> None:
    rows = [{"tokens": row["tokens"], "tags": [w.upper() for w in row["tokens"]]} for row in sentences(20)]
    task = load_task(write_split(tmp_path, rows))
    assert task.metric == "token_accuracy"
    commonest = task.train.labels[task.train.labels >= 0].bincount().argmax()
    words = task.validation.labels[task.validation.labels >= 0]
    assert task.chance() == pytest.approx((words == commonest).double().mean().item())
    with pytest.raises(InputError, match="got metric 'entity_f1' for tags A, B, C, expected O, B-TYPE and I-TYPE"):
        load_task(str(tmp_path), metric="entity_f1")


# --- scores ---------------------------------------------------------------------------------------------------------


def test_entity_f1_is_seqevals_strict_one() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval.scheme import IOB2

    names = ("B-loc", "B-per", "I-loc", "I-per", "O")
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 5, (200, 12), generator=generator)
    predicted = torch.where(
        torch.rand(labels.shape, generator=generator) < 0.3, torch.randint(0, 5, labels.shape), labels
    )
    lengths = torch.randint(1, 13, (200,), generator=generator)
    labels = labels.masked_fill(torch.arange(12) >= lengths[:, None], NO_TAG)
    found = Tokens(names).measure("entity_f1", predicted, labels)
    pairs = [(p[:n], r[:n]) for p, r, n in zip(predicted.tolist(), labels.tolist(), lengths.tolist(), strict=True)]
    ours, theirs = ([[names[n] for n in row] for row in rows] for rows in zip(*pairs, strict=True))
    assert found == pytest.approx(seqeval.f1_score(theirs, ours, mode="strict", scheme=IOB2))
    assert 0.2 < found < 0.9


def test_entities_begin_with_b_and_end_where_the_type_changes() -> None:
    assert list(entities(["B-x", "I-x", "I-y", "O", "I-x", "B-y", "B-y"])) == [("x", 0, 2), ("y", 5, 6), ("y", 6, 7)]


def test_words_beyond_the_models_length_count_as_outside(folder: Path) -> None:
    model = load_model(str(folder / "base"), 3, Tokens(tuple(sorted(RULE.values()))), max_length=5)
    kind = Tokens(("B-x", "I-x", "O"))
    split = kind.examples([("a b c a b c",), ("a",)])
    batches = Batches(model, split, kind)
    assert batches.truncated == 1
    outputs = predict(model, batches, "fp32")
    assert (outputs[0, :, 0] == UNSEEN).tolist() == [False] * 3 + [True] * 3, "two places are the marks'"
    labels = torch.tensor([[0, 1, 2, 0, 1, 2], [0] + 5 * [NO_TAG]])
    right = (40 * torch.eye(3)[labels.clamp(min=0)]).where(outputs != UNSEEN, UNSEEN)
    assert kind.score("token_accuracy", right, labels) == pytest.approx(5 / 7)
    assert kind.score("entity_f1", right, labels) == pytest.approx(2 * 2 / (2 + 3))
    assert kind.losses(right, labels).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_padding_and_neighbours_change_no_words_outputs(folder: Path) -> None:
    kind = Tokens(("B-x", "I-x", "O"))
    model = load_model(str(folder / "base"), 3, kind)
    model.module.eval()
    batches = Batches(model, kind.examples([("a",), ("a b c c b a",), ("b c",)]), kind)
    with torch.no_grad():
        whole = outputs_of(model.module, batches.inputs(torch.tensor([1, 2, 0])), kind)
        for place, (row, words) in enumerate(((1, 6), (2, 2), (0, 1))):
            alone = outputs_of(model.module, batches.inputs(torch.tensor([row])), kind)
            torch.testing.assert_close(whole[place, :words], alone[0], rtol=1e-5, atol=1e-5)
            assert bool((whole[place, words:] == UNSEEN).all())


def test_a_word_of_several_tokens_is_labelled_by_its_first() -> None:
    from d90.models.encoding import first_tokens

    # "new york's": new | york | ' | s, behind a mark; a byte-level token begins at the space before its word
    assert first_tokens(["new", "york's"], [(0, 0), (0, 3), (4, 8), (8, 9), (9, 10), (0, 0)]) == [1, 2]
    assert first_tokens(["new", "york's"], [(0, 3), (3, 8), (8, 10)]) == [0, 1]
    assert first_tokens(["a", "\u200b", "b"], [(0, 1), (4, 5)]) == [0, -1, 1], "a word without a token"
    assert first_tokens(["a", "b"], [(0, 1), (1, 2), (2, 3)]) == [0, 2], "a token of the space alone"


# --- tunes ----------------------------------------------------------------------------------------------------------


def test_a_planted_rule_is_learnt_and_the_reopened_tune_scores_the_same(folder: Path) -> None:
    tuned = open_tune(folder / "task.d90")
    scored = tuned.evaluate()
    assert scored.score > 0.95
    assert tuned.kind == Tokens(("B-x", "I-x", "O"))
    record = json.loads((folder / "task.json").read_text())
    assert scored.score == pytest.approx(record["outcome"]["score"])


def test_predict_gives_entities_with_their_places(folder: Path) -> None:
    done = cli("predict", "task.d90", "c  a b c a", "--format", "jsonl", cwd=folder)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert [(e["type"], e["text"], e["start"], e["end"]) for e in row["entities"]] == [
        ("x", "a b", 3, 6),
        ("x", "a", 9, 10),
    ]
    assert [(w["word"], w["tag"]) for w in row["words"]][:3] == [("c", "O"), ("a", "B-x"), ("b", "I-x")]
    assert all(0.5 < e["probability"] <= 1 for e in row["entities"])
    lines = cli("predict", "task.d90", "c", "--format", "csv", cwd=folder)
    assert lines.stdout.startswith("text,entities,words")
    wrong = cli("predict", "task.d90", "  ", cwd=folder)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("method", ["full@d=40", "lora:r=2,targets=all", "bitfit", "adapter:r=2"])
def test_every_method_trains_saves_and_opens_again(folder: Path, tmp_path: Path, method: str) -> None:
    run = d90.train(str(folder / "base"), str(folder / "data"), method, **{**OPTIONS, "epochs": 3})
    assert run.outcome.curve[-1].loss < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate().score == pytest.approx(run.score)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_a_merged_folder_opens_in_a_pipeline_with_the_same_entities(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    out = merge(folder / "task.d90", tmp_path / "model")
    model = AutoModelForTokenClassification.from_pretrained(out)
    assert model.config.id2label == {0: "B-x", 1: "I-x", 2: "O"}
    found = pipeline(
        "token-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(out), aggregation_strategy="first"
    )("c a b c a")
    ours = open_tune(folder / "task.d90").describe([("c a b c a",)])[0]["entities"]
    assert [(e["entity_group"], e["start"], e["end"]) for e in found] == [
        (e["type"], e["start"], e["end"]) for e in ours
    ]


def test_measure_and_compare_take_the_kind(folder: Path, tmp_path: Path) -> None:
    short = {"epochs": 4, "batch_size": 8, "evaluations": 2, "lr": 0.02}
    result = d90.compare(
        str(folder / "base"),
        str(folder / "data"),
        ["full", "full@d=8"],
        store=tmp_path / "c.sqlite",
        costs=False,
        **short,
    )
    assert result.entries[0].mean > result.chance
    found = d90.measure(
        str(folder / "base"), str(folder / "data"), store=tmp_path / "m.sqlite", dims=(8, 64), full_curve=True, seeds=1,
        budget=1, **short,
    )  # fmt: skip
    assert found.rule == "paper", "a share of F1 is a share"
    assert len(found.curve) == 2
