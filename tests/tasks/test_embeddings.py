"""Texts as vectors: pairs, triplets and pairs with numbers, pooling, nearest texts, folders of sentence-transformers in and out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import d90
from d90.errors import InputError
from d90.integrations.merge import merge
from d90.models.loading import load as load_model
from d90.tasks import load as load_task
from d90.tasks.kinds import Embeddings
from d90.training.batches import Batches, outputs_of
from d90.training.loading import open_tune
from tests.reference.command import run as cli
from tests.reference.rows import write_rows
from tests.reference.tiny import tiny_model

OPTIONS: dict[str, Any] = {"epochs": 6, "batch_size": 8, "evaluations": 2, "lr": 0.01, "precision": "fp32"}
SENTENCES = ["".join(row) for n in (3, 4, 5) for row in itertools.combinations_with_replacement("abc", n)]


def pairs(count: int = 40, negative: bool = False) -> list[dict[str, Any]]:
    """The same words in another order."""
    found = [{"anchor": " ".join(s), "positive": " ".join(reversed(s))} for s in SENTENCES[:count]]
    return [{**row, "negative": "c c"} for row in found] if negative else found


def numbered(count: int = 40) -> list[dict[str, Any]]:
    """How many words two sentences share, of 5."""
    some = [(SENTENCES[i % 46], SENTENCES[(7 * i + 3) % 46]) for i in range(count)]
    shared = [sum(min(a.count(x), b.count(x)) for x in "abc") for a, b in some]
    return [{"text_a": " ".join(a), "text_b": " ".join(b), "score": n} for (a, b), n in zip(some, shared, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a task and a tune of all weights."""
    path = tmp_path_factory.mktemp("embeddings")
    tiny_model(path / "base")
    run = d90.train(str(path / "base"), write_rows(path / "pairs.jsonl", pairs()), "full", **OPTIONS)
    run.save(path / "task.d90")
    run.release()
    return path


# --- files ----------------------------------------------------------------------------------------------------------


def test_pairs_triplets_and_numbers_are_distinguished(tmp_path: Path) -> None:
    task = load_task(write_rows(tmp_path / "a.jsonl", pairs()))
    assert (task.kind, task.metric, task.texts, task.chance()) == (Embeddings(), "recall_1", 1, 0.0)
    three = load_task(write_rows(tmp_path / "b.jsonl", pairs(negative=True)))
    assert len(three.train.inputs[0]) == 3
    found = load_task(write_rows(tmp_path / "c.jsonl", numbered()), kind="embeddings")
    assert (found.metric, found.kind.record["numbers"]) == ("spearman", True)
    assert found.kind.record["high"] == found.train.labels.max()
    again = load_task(str(tmp_path / "c.jsonl"), kind="embeddings", text="text_a,text_b", label="score")
    assert again.fingerprint == found.fingerprint
    with pytest.raises(InputError, match=r"unknown metric of embeddings.*'recall_1'"):
        load_task(str(tmp_path / "c.jsonl"), kind="embeddings", metric="recall_1")


def test_wrong_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 3: an empty text, expected anchor and positive"):
        load_task(write_rows(tmp_path / "a.jsonl", [*pairs(2), {"anchor": "a", "positive": " "}]))
    with pytest.raises(InputError, match="line 3: no text in column 'positive'"):
        load_task(write_rows(tmp_path / "b.jsonl", [*pairs(2), {"anchor": "a"}]))
    with pytest.raises(InputError, match="triplets with numbers in column 'score'"):
        load_task(write_rows(tmp_path / "c.jsonl", [{**row, "score": 1} for row in pairs(9, negative=True)]))
    with pytest.raises(InputError, match="it has text, expected anchor and positive"):
        load_task(write_rows(tmp_path / "d.jsonl", [{"text": "a"}] * 9), kind="embeddings")


# --- losses and scores ----------------------------------------------------------------------------------------------


def test_losses_are_sentence_transformers_own() -> None:
    kind = Embeddings()
    vectors = torch.nn.functional.normalize(torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    scores = 20 * torch.cat((vectors[:, 0] @ vectors[:, 1].T, vectors[:, 0] @ vectors[:, 2].T), dim=1)
    wanted = torch.nn.functional.cross_entropy(scores, torch.arange(6))
    assert kind.loss(vectors, torch.zeros(6)).item() == pytest.approx(wanted.item())
    numbers = Embeddings(numbers=True, low=0.0, high=5.0)
    labels = torch.tensor([5.0, 0.0, 2.5, 1.0, 4.0, 3.0])
    cosines = (vectors[:, 0] * vectors[:, 1]).sum(dim=-1)
    assert numbers.training_loss(vectors[:, :2], labels).item() == pytest.approx(
        (cosines - labels / 5).square().mean().item()
    )
    assert numbers.loss(vectors[:, :2], labels).item() == pytest.approx(
        (5 * cosines - labels).square().mean().item(), rel=1e-5
    )


def test_recall_counts_what_is_at_least_as_near() -> None:
    kind = Embeddings()
    eye = torch.eye(12)
    right = torch.stack((eye, eye), dim=1)
    assert kind.score("recall_1", right, torch.zeros(12)) == 1.0
    swapped = torch.stack((eye, eye.roll(1, dims=0)), dim=1)
    assert kind.score("recall_1", swapped, torch.zeros(12)) == 0.0
    same = torch.ones(12, 2, 4) / 2
    assert kind.score("recall_1", same, torch.zeros(12)) == 0.0, "one vector for every text finds nothing"
    assert kind.score("recall_10", same, torch.zeros(12)) == 0.0
    assert kind.score("loss", same, torch.zeros(12)) == pytest.approx(
        kind.chance("loss", torch.zeros(3), torch.zeros(12))
    )


def test_padding_and_neighbours_change_no_vector(folder: Path) -> None:
    kind = Embeddings()
    model = load_model(str(folder / "base"), 0, kind)
    model.module.eval()
    batches = Batches(model, load_task(str(folder / "pairs.jsonl")).train, kind)
    with torch.no_grad():
        whole = outputs_of(model.module, batches.inputs(torch.arange(5)), kind)
        assert whole.norm(dim=-1) == pytest.approx(torch.ones(5, 2))
        for i in range(5):
            alone = outputs_of(model.module, batches.inputs(torch.tensor([i])), kind)
            torch.testing.assert_close(whole[i], alone[0], rtol=0, atol=1e-5)


# --- tunes ----------------------------------------------------------------------------------------------------------


def test_a_rule_is_learnt_and_the_reopened_tune_scores_the_same(folder: Path) -> None:
    record = json.loads((folder / "task.json").read_text())
    curve = record["outcome"]["curve"]
    assert min(look["loss"] for look in curve) < curve[0]["loss"]
    assert open_tune(folder / "task.d90").evaluate().score == pytest.approx(record["outcome"]["score"])


@pytest.mark.parametrize("method", ["full@d=40", "lora:r=2,targets=all", "bitfit"])
@pytest.mark.parametrize("data", ["pairs", "triplets", "numbers"])
def test_every_shape_trains_saves_and_opens_again(folder: Path, tmp_path: Path, method: str, data: str) -> None:
    found = {"pairs": pairs(), "triplets": pairs(negative=True), "numbers": numbered()}[data]
    task = load_task(write_rows(tmp_path / "t.jsonl", found), kind="embeddings")
    run = d90.train(str(folder / "base"), task, method, **OPTIONS)
    assert min(look.loss for look in run.outcome.curve[1:]) < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate(task).score == pytest.approx(score, abs=1e-6)


def test_predict_gives_vectors_and_the_nearest_text(folder: Path) -> None:
    done = cli("predict", str(folder / "task.d90"), "a a b", "c c c", "b a a", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [rows[0]["nearest"], rows[2]["nearest"]] == ["b a a", "a a b"]
    assert rows[0]["similarity"] == pytest.approx(rows[2]["similarity"], abs=1e-6)
    assert sum(one * one for one in rows[0]["embedding"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_folders_of_sentence_transformers_go_in_and_out(folder: Path, tmp_path: Path, pooling: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    tiny_model(tmp_path / "base")
    (tmp_path / "base" / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
    (tmp_path / "base" / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))
    run = d90.train(
        str(tmp_path / "base"), str(folder / "pairs.jsonl"), "lora:r=2,targets=all", **{**OPTIONS, "epochs": 1}
    )
    assert run.model.pooling == pooling
    run.save(tmp_path / "t.d90")
    run.release()
    out = merge(tmp_path / "t.d90", tmp_path / "model")
    texts = ["a a b", "c", "b a c a b"]
    theirs = torch.as_tensor(library.SentenceTransformer(str(out), device="cpu").encode(texts))
    ours = torch.tensor(
        [row["embedding"] for row in open_tune(tmp_path / "t.d90").describe([(text,) for text in texts])]
    )
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert load_model(str(out), 0, Embeddings()).pooling == pooling


def test_a_pooling_that_is_not_known_is_refused(folder: Path, tmp_path: Path) -> None:
    tiny_model(tmp_path / "base")
    (tmp_path / "base" / "1_Pooling").mkdir()
    (tmp_path / "base" / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(InputError, match="pools by pooling_mode_max_tokens, expected one of mean, cls, lasttoken"):
        load_model(str(tmp_path / "base"), 0, Embeddings())
