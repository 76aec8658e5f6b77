"""Answers in contexts: SQuAD's columns and scores, windows, questions without an answer, tunes and merged folders."""

from __future__ import annotations

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
from d90.tasks.kinds import Answering
from d90.tasks.kinds.questions import NO_ANSWER, answer_f1, squad_normalised
from d90.training.batches import Batches, outputs_of
from d90.training.evaluation import predict
from d90.training.loading import open_tune
from tests.reference.command import run as cli
from tests.reference.rows import write_rows
from tests.reference.tiny import tiny_model

OPTIONS: dict[str, Any] = {"epochs": 15, "batch_size": 8, "evaluations": 3, "lr": 0.02, "precision": "fp32"}


def rows(count: int, seed: int = 0, longest: int = 6, none: bool = False) -> list[dict[str, Any]]:
    """The answer is the one b of the context."""
    draw, found = random.Random(seed), []
    for i in range(count):
        words = draw.choices("ac", k=draw.randint(2, longest))
        there = not (none and i % 4 == 3)
        if there:
            words[draw.randrange(len(words))] = "b"
        context = " ".join(words)
        answers = {"text": ["b"], "answer_start": [context.index("b")]} if there else {"text": [], "answer_start": []}
        found.append({"id": str(i), "question": "c", "context": context, "answers": answers})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a task and a tune of all weights."""
    path = tmp_path_factory.mktemp("questions")
    tiny_model(path / "base")
    write_rows(path / "data" / "train.jsonl", rows(80))
    write_rows(path / "data" / "validation.jsonl", rows(20, seed=1))
    run = d90.train(str(path / "base"), str(path / "data"), "full", **OPTIONS)
    run.save(path / "task.d90")
    run.release()
    return path


# --- files ----------------------------------------------------------------------------------------------------------


def test_squads_columns_are_recognised_in_both_shapes(tmp_path: Path) -> None:
    task = load_task(write_rows(tmp_path / "a.jsonl", rows(20)))
    assert (task.kind, task.metric, task.texts) == (Answering(), "answer_f1", 2)
    listed = [
        {**row, "answers": [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]}
        for row in rows(20)
    ]
    assert load_task(write_rows(tmp_path / "b.jsonl", listed)).fingerprint == task.fingerprint
    open_ = load_task(write_rows(tmp_path / "c.jsonl", rows(20, none=True)))
    assert open_.kind == Answering(unanswerable=True)
    assert "5 questions have no answer" in " ".join(open_.shown_notes)


def nested(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The same rows as SQuAD's own files have them: two articles of paragraphs, a question or two each."""
    paragraphs = []
    for row in found:
        answers = [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]
        asked = {"id": row["id"], "question": row["question"], "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": row["context"], "qas": [asked]})
    half = len(paragraphs) // 2
    return {
        "version": "v2.0",
        "data": [
            {"title": f"t{i}", "paragraphs": part} for i, part in enumerate((paragraphs[:half], paragraphs[half:]))
        ],
    }


def test_squads_nested_file_is_the_same_task(tmp_path: Path) -> None:
    flat = load_task(write_rows(tmp_path / "a.jsonl", rows(20, none=True)))
    for name, indent in (("b.json", None), ("c.json", 1)):
        (tmp_path / name).write_text(json.dumps(nested(rows(20, none=True)), indent=indent))
        task = load_task(str(tmp_path / name))
        assert (task.fingerprint, task.kind) == (flat.fingerprint, flat.kind)
    wrong = nested(rows(4))
    wrong["data"][1]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 99
    (tmp_path / "d.json").write_text(json.dumps(wrong))
    with pytest.raises(
        InputError, match=r"d\.json', item 2, paragraph 1, question 1: the answer 'b' is not at its offset 99"
    ):
        load_task(str(tmp_path / "d.json"))
    wrong["data"][1]["paragraphs"][1]["qas"] = None
    (tmp_path / "e.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=r"item 2, paragraph 2, qas: no list of objects, expected SQuAD's form"):
        load_task(str(tmp_path / "e.json"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"answers": {"text": ["b"], "answer_start": [1]}, "context": "a b"},
            "line 3: the answer 'b' is not at its offset 1, where ' '",
        ),
        ({"answers": {"text": ["b"], "answer_start": []}}, "line 3: column 'answers' holds no answers"),
        ({"answers": {"text": ["b"], "answer_start": ["0"]}}, "line 3: an answer without text or answer_start"),
        ({"answers": None}, "line 3: column 'answers' holds no answers"),
        ({"context": " "}, "line 3: 'context' is empty"),
        ({"question": ""}, "line 3: 'question' is empty"),
        ({"context": None}, "line 3: no text in column 'context'"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_task(write_rows(tmp_path / "a.jsonl", [*rows(2), {**rows(1)[0], **change}]))


# --- scores ---------------------------------------------------------------------------------------------------------


def test_scores_are_squads() -> None:
    assert squad_normalised("  The cat's, an  A-Team! ") == "cats ateam"
    assert answer_f1("the big cat", "a cat sat") == pytest.approx(0.5)
    assert answer_f1("", "") == 1.0
    assert answer_f1("cat", "") == 0.0
    kind = Answering()
    asked = Answering().questions(None, Answering().examples([("q", "the cat sat")]), True, "m")
    asked = asked._replace(references=[json.dumps(["cat", "the cat sat"])])
    assert kind.grade("exact", asked, ["The cat!"]) == [1]
    assert kind.grade("answer_f1", asked, ["cat sat"]) == [1.0], "the best of its answers"


def test_the_commonest_answer_is_chance(folder: Path) -> None:
    assert load_task(str(folder / "data"), metric="exact").chance() == 1.0, "every answer is b"
    task = load_task(str(folder / "data"), metric="loss")
    assert -2 < task.chance() < -0.5


# --- windows --------------------------------------------------------------------------------------------------------


def test_long_contexts_are_read_in_windows_that_hold_every_token(folder: Path) -> None:
    kind = Answering()
    model = load_model(str(folder / "base"), 2, kind, max_length=10)
    context = " ".join(["a"] * 20 + ["b"] + ["c"] * 9)
    split = load_task(str(folder / "data")).train.take(2)
    texts = [("c", context), ("a b c a b c a b", context), split.inputs[0]]
    labels = torch.tensor([[[40, 41]], [[40, 41]], split.labels[0].tolist()])
    batches = Batches(model, d90.tasks.Split(texts, labels), kind)  # type: ignore[arg-type]
    assert batches.truncated == 2
    model.module.eval()
    with torch.no_grad():
        whole = outputs_of(model.module, batches.inputs(torch.arange(3)), kind)
        for i in range(3):
            alone = outputs_of(model.module, batches.inputs(torch.tensor([i])), kind)
            torch.testing.assert_close(whole[i, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)
            assert bool((whole[i, alone.shape[1] :] == -1).all())
    for i in (0, 1):
        seen = {int(low) for low in whole[i, :, 2] if low >= 0}
        assert seen == set(range(0, 60, 2)), "each word of the context is in a window"
        assert whole[i, :, 4].max() >= 2
    assert bool((kind.losses(whole, labels) > 0).all())
    assert torch.isfinite(kind.losses(whole, labels)).all()


def test_an_answer_is_within_one_window_and_the_likeliest_one() -> None:
    kind = Answering(unanswerable=True)
    positions = [(-2, -2, 0), (0, 1, 0), (2, 3, 0), (-2, -2, 1), (2, 3, 1), (4, 5, 1)]
    outputs = torch.tensor([[(0.0, 0.0, low, high, window) for low, high, window in positions]])
    outputs[0, 1, 0], outputs[0, 5, 1] = 5.0, 5.0  # begin in one window, end in the other
    outputs[0, 2, 1] = 4.0
    assert kind.predict(outputs).tolist() == [[[0, 3]]]
    outputs[0, 0, :2] = 9.0
    assert kind.predict(outputs).tolist() == [[[NO_ANSWER, NO_ANSWER]]]
    assert Answering().predict(outputs).tolist() == [[[0, 3]]], "where every question has an answer"
    right = torch.tensor([[[2, 3]]])
    both = torch.full_like(outputs, 0.0)
    both[..., 2:] = outputs[..., 2:]
    assert Answering().losses(both, right).item() == pytest.approx(torch.tensor(2.0).log().item()), "2 of 4 tokens"


# --- tunes ----------------------------------------------------------------------------------------------------------


def test_a_planted_rule_is_learnt_and_predict_gives_the_place(folder: Path) -> None:
    tuned = open_tune(folder / "task.d90")
    assert tuned.evaluate().score == pytest.approx(json.loads((folder / "task.json").read_text())["outcome"]["score"])
    assert tuned.evaluate(metric="exact").score > 0.9
    done = cli("predict", str(folder / "task.d90"), "c", "a c b c", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["answer"], row["start"], row["end"]) == ("b", 4, 5)
    assert 0.3 < row["probability"] <= 1
    write_rows(folder / "asked.jsonl", rows(3, seed=5))
    table = cli("predict", str(folder / "task.d90"), "--file", str(folder / "asked.jsonl"), "--format", "csv").stdout
    assert table.splitlines()[0] == "line,text_a,text_b,answer,probability,start,end"


def test_questions_without_an_answer_are_learnt(folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", rows(120, none=True))
    write_rows(tmp_path / "validation.jsonl", rows(40, seed=2, none=True))
    run = d90.train(
        str(folder / "base"), str(tmp_path), "full", columns={"metric": "exact"}, **{**OPTIONS, "epochs": 25}
    )
    assert run.score > run.task.chance() + 0.1
    run.save(tmp_path / "t.d90")
    run.release()
    found = open_tune(tmp_path / "t.d90").describe([("c", "a c b"), ("c", "a c a")])
    assert [row["answer"] for row in found] == ["b", ""]
    assert found[1]["start"] is None


@pytest.mark.filterwarnings("ignore:.*")
def test_a_merged_folder_gives_the_same_logits(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    out = merge(folder / "task.d90", tmp_path / "model")
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    given = tokenizer("c", "a c b c", return_tensors="pt")
    found = model(**given)
    tuned = open_tune(folder / "task.d90")
    ours = predict(tuned.model, Batches(tuned.model, tuned.kind.examples([("c", "a c b c")]), tuned.kind), "fp32")[0]
    torch.testing.assert_close(ours[:, 0], found.start_logits[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[:, 1], found.end_logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["full@d=40", "lora:r=2,targets=all"])
def test_a_method_trains_saves_and_opens_again(folder: Path, tmp_path: Path, method: str) -> None:
    run = d90.train(str(folder / "base"), str(folder / "data"), method, **OPTIONS)
    assert run.outcome.curve[-1].loss < run.outcome.curve[0].loss
    run.save(tmp_path / "t.d90")
    score = run.score
    run.release()
    assert open_tune(tmp_path / "t.d90").evaluate().score == pytest.approx(score)
