"""Several answers to one prompt are one independent example: in splits, scores, intervals, and what may not be shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import d90
from d90.analysis.score_interval import bootstrap_interval, standard_error
from d90.errors import InputError
from d90.models.loading import load as load_model
from d90.options import TaskOptions
from d90.studies.low_data import examples_of
from d90.tasks import Task, load
from d90.tasks.answers import Questions
from d90.tasks.conversations import Conversation, Message
from d90.tasks.corpus_scores import corpus_score
from d90.tasks.kinds import Instruction, Seq2Seq
from d90.tasks.kinds.language import documents
from d90.tasks.overlap import asked_again, asked_once
from d90.training.batches import Batches
from d90.training.evaluation import look
from d90.training.forgetting import forgetting, losses, retained
from d90.training.loading import open_tune
from tests.reference.chat import chat_model


def _written(folder: Path, rows: list[dict[str, Any]], name: str = "train") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


def _rows(prompts: int, answers: int) -> list[dict[str, str]]:
    """Answers of one prompt stand apart from one another."""
    return [{"prompt": f"{p}:", "completion": f"{p}{a}"} for a in range(answers) for p in range(prompts)]


def _sources(task: Task, part: str) -> set[str]:
    return {str(task.kind.source(example)) for example in task.splits[part].inputs}


@pytest.mark.parametrize("kind", ["instruction", "seq2seq"])
def test_a_split_that_is_made_keeps_the_answers_to_a_prompt_together(kind: str, tmp_path: Path) -> None:
    task = load(_written(tmp_path, _rows(40, 3)), kind=kind)
    assert (len(task.train), len(task.validation)) == (36 * 3, 4 * 3)
    assert not _sources(task, "train") & _sources(task, "validation")
    assert (task.independent("train"), task.independent("validation")) == (36, 4)
    assert "108 training examples share 36 prompts, each one independent example" in task.shown_notes
    tested = task.with_test()
    assert (len(tested.train), len(tested.splits["test"])) == (33 * 3, 3 * 3)
    assert not _sources(tested, "train") & _sources(tested, "test")


def test_prompts_that_differ_are_split_as_ever_and_one_prompt_for_all_groups_nothing(tmp_path: Path) -> None:
    rows = _rows(50, 1)
    task = load(_written(tmp_path / "a", rows))
    whole = documents([(_one(row["prompt"], row["completion"]),) for row in rows])
    rest, held = whole.hold_out(0)
    assert (list(task.train.inputs), list(task.validation.inputs)) == (list(rest.inputs), list(held.inputs))
    assert task.groups("train") is None
    same = load(_written(tmp_path / "b", [{"prompt": "", "completion": str(i)} for i in range(50)]))
    assert same.groups("train") is None
    assert (same.independent("train"), len(same.validation)) == (45, 5)


def _one(prompt: str, completion: str) -> str:
    return Conversation((Message("user", prompt), Message("assistant", completion)), first=1, plain=True).to_json()


def test_a_group_is_all_that_stands_before_the_last_answer() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    variants = [turns, [*turns[:3], ("assistant", "e")], [turns[0], ("assistant", "x"), *turns[2:]], turns[2:]]
    inputs = [(Conversation(tuple(Message(*turn) for turn in one)).to_json(),) for one in variants]
    other = documents([(_one(letter, "1"),) for letter in "vwxyz"])
    groups, alone = Instruction().groups(documents(inputs), other)
    assert groups is not None
    assert (groups.tolist(), alone) == ([0, 0, 1, 2], None)
    assert Instruction().groups(documents(inputs)) == [None], "three prompts are conditions"
    rows = [(letter, str(i)) for i, letter in enumerate("bababbcdeb")]
    (groups,) = Seq2Seq().groups(documents(rows))
    assert groups is not None
    assert groups.tolist() == [0, 1, 0, 1, 0, 0, 2, 3, 4, 0]


def test_bleu_of_instruction_data_is_sacrebleus_over_prompts_with_all_their_references(tmp_path: Path) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    chat_model(tmp_path / "model")
    rows = [
        {"prompt": "a:", "completion": "the cat sat on the mat"}, {"prompt": "b:", "completion": "it is a small dog"},
        {"prompt": "a:", "completion": "a cat was sitting on a mat"}, {"prompt": "a:", "completion": "the cat sat there"},
    ]  # fmt: skip
    task = load(_written(tmp_path / "data", rows * 2), metric="bleu")
    kind, split = task.kind, documents([(_one(row["prompt"], row["completion"]),) for row in rows])
    tokenizer = load_model(str(tmp_path / "model"), 0, kind).tokenizer
    asked = kind.questions(tokenizer, split, True, "m")
    answers = {"a": "the cat sat on a mat", "b": "it is a dog"}
    counts = torch.as_tensor(kind.grade("bleu", asked, [answers[row["prompt"][0]] for row in rows]))
    theirs = sacrebleu.corpus_bleu(
        list(answers.values()),
        [[rows[0]["completion"], rows[1]["completion"]], [rows[2]["completion"], None], [rows[3]["completion"], None]],
    )
    assert kind.measure("bleu", counts, split.labels) == pytest.approx(theirs.score / 100)
    assert counts[2:].eq(0).all(), "a prompt counts once"
    guess = sacrebleu.corpus_bleu(
        [rows[0]["completion"]] * 2,
        [[rows[0]["completion"], rows[1]["completion"]], [rows[2]["completion"], None], [rows[3]["completion"], None]],
    )
    assert kind.constant("bleu", split, split) == pytest.approx(guess.score / 100)
    assert load(str(tmp_path / "data"), metric="chrf").fingerprint != task.fingerprint


def _asked(contexts: int, questions: int) -> list[dict[str, Any]]:
    """Questions on one context stand apart from one another; the answer to question q is word q."""
    found = []
    for q, c in ((q, c) for q in range(questions) for c in range(contexts)):
        context = f"c{c} x y z"
        answers = {"text": ["xyz"[q]], "answer_start": [context.index("xyz"[q])]}
        found.append({"question": f"which {q}", "context": context, "answers": answers})
    return found


def test_questions_on_one_context_are_one_independent_example(tmp_path: Path) -> None:
    task = load(_written(tmp_path, _asked(40, 3)))
    assert (task.kind.name, len(task.train), len(task.validation)) == ("question-answering", 36 * 3, 4 * 3)
    assert not {c for _, c in task.train.inputs} & {c for _, c in task.validation.inputs}
    assert (task.independent("train"), task.independent("validation")) == (36, 4)
    assert "108 training examples share 36 contexts, each one independent example" in task.shown_notes
    assert task.with_test().independent("test") == 3
    assert [examples_of(task, n) for n in (2, 36)] == [2, 108]
    near = load(_written(tmp_path / "near", sorted(_asked(40, 3), key=lambda row: row["context"])))
    assert [examples_of(near, n) for n in (2, 36)] == [6, 108], "two contexts with all their questions"


def test_choices_on_one_passage_and_texts_of_one_anchor_are_one_independent_example(tmp_path: Path) -> None:
    exam = [
        {"article": f"story {p}", "question": f"what {q}", "options": ["a", "b"], "answer": "AB"[q % 2]}
        for q in range(3) for p in range(40)
    ]  # fmt: skip
    task = load(_written(tmp_path / "exam", exam))
    assert (task.independent("train"), len(task.train)) == (36, 108)
    stories = [{str(text).split(" what")[0] for text, *_ in split.inputs} for split in task.splits.values()]
    assert not stories[0] & stories[1]
    assert task.limit(50).train.sources is not None
    pairs = [{"anchor": f"a{p}", "positive": f"p{p} {q}"} for q in range(3) for p in range(40)]
    task = load(_written(tmp_path / "pairs", pairs))
    assert (task.independent("train"), task.independent("validation")) == (36, 4)
    numbers = [{**row, "score": i / 120} for i, row in enumerate(pairs)]
    assert load(_written(tmp_path / "numbers", numbers), kind="embeddings").groups("train") is None


def test_a_column_names_what_rows_were_drawn_with(tmp_path: Path) -> None:
    """Three hypotheses to a premise, the premise's number beside them."""
    rows = [
        {"premise": f"p {p}", "hypothesis": f"h {p} {q}", "label": "abc"[q], "number": p}
        for q in range(3) for p in range(40)
    ]  # fmt: skip
    path = _written(tmp_path, rows)
    plain, task = load(path), load(path, group="number")
    assert (plain.groups("train"), len(plain.train)) == (None, 108)
    assert (task.independent("train"), task.independent("validation"), len(task.train)) == (36, 4, 108)
    assert "108 training examples share 36 values of 'number', each one independent example" in task.shown_notes
    assert not {p for p, _ in task.train.inputs} & {p for p, _ in task.validation.inputs}
    assert asked_again(task.kind, task.validation, task.train) == 0
    assert asked_again(task.kind, task.validation, load(path, group="label").train) == 0
    assert "group" not in TaskOptions().columns
    for bad, why in (
        ({"group": "nunber"}, "no column 'nunber'; it has premise"),
        ({"group": "empty"}, "nothing in column"),
    ):
        _written(tmp_path / "bad", [{**row, "empty": "" if i == 7 else "x"} for i, row in enumerate(rows)])
        with pytest.raises(InputError, match=why):
            load(str(tmp_path / "bad"), **bad)
    with pytest.raises(InputError, match="got group for task 'docstrings', which has its own"):
        load("docstrings", group="x")


def test_prompts_that_both_splits_ask_are_counted() -> None:
    train = documents([(_one(letter, number),) for letter, number in ("a1", "a2", "b1", "d1", "e1", "f1")])
    other = documents([(_one("a", "3"),), (_one("a", "4"),), (_one("c", "1"),)])
    assert asked_again(Instruction(), other, train) == 2
    assert len(asked_once(Instruction(), train)) == 5
    same = documents([(_one("", str(i)),) for i in range(9)])
    assert asked_again(Instruction(), same, same) == 0, "a prompt that all share tells nothing"


def test_intervals_and_errors_go_by_prompts(tmp_path: Path) -> None:
    """Four equal answers to each prompt say as much as one: intervals are those of the prompts."""
    chat_model(tmp_path / "model")
    once = [{"prompt": f"{p}:", "completion": "xyz"[p % 3] * (1 + p % 4)} for p in range(40)]
    found = {}
    for name, rows in (("once", once), ("often", [row for row in once for _ in range(4)])):
        folder = _written(tmp_path / name, _rows(20, 1))
        _written(tmp_path / name, rows, "validation")
        if not found:
            run = d90.train(str(tmp_path / "model"), folder, "full@d=4", epochs=0.1, evaluations=1)
            run.save(tmp_path / "x.d90")
        tuned = open_tune(tmp_path / "x.d90")
        scored = tuned.evaluate(folder)
        kept = retained(tuned.model, folder, tmp_path)[1]
        shifted = forgetting(
            tuned.model, kept.base - torch.arange(40.0).repeat_interleave(len(rows) // 40), kept.texts, kept.groups
        )
        found[name] = scored, shifted
        assert scored.independent == 40
    single, often = found["once"][0], found["often"][0]
    assert (often.count, often.score) == (160, pytest.approx(single.score, abs=1e-5))
    assert (often.low, often.high) == (pytest.approx(single.low, abs=1e-5), pytest.approx(single.high, abs=1e-5))
    assert found["often"][1][1] == pytest.approx(found["once"][1][1], abs=1e-6)
    assert found["once"][1][1] == pytest.approx(standard_error(torch.arange(40.0).numpy()), abs=1e-5)


def test_a_prompt_with_several_references_is_answered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from d90.training import answers as module

    chat_model(tmp_path / "model")
    task = load(_written(tmp_path / "data", _rows(20, 3)), metric="exact")
    model, asked = load_model(str(tmp_path / "model"), 0, task.kind), []
    whole = module.generate
    monkeypatch.setattr(module, "generate", lambda m, p, *a, **k: asked.append(len(p)) or whole(m, p, *a, **k))
    batches = Batches(model, task.validation, task.kind)
    found = look(model, task, batches, "fp32", module.ask(model, task.validation, task.kind))
    assert asked == [2]
    assert len(found.predictions) == 6
    assert losses(model, batches).shape == (6,)


def test_an_interval_of_bleu_is_of_prompts_and_their_counts_are_read_as_they_were_stored(tmp_path: Path) -> None:
    """A store keeps an example's several counts in one row."""
    pytest.importorskip("sacrebleu")
    from d90.studies.compare import deviation_by_examples
    from tests.reference.results import made_entry

    rows = [{"prompt": f"{p}:", "completion": f"it is {p} and {'ab'[a]}"} for p in range(20) for a in range(2)]
    _written(tmp_path, rows)
    task = load(_written(tmp_path, rows, "validation"), metric="bleu")
    answers = [f"it is {p} and a" if p % 3 else "no" for p in range(20) for _ in range(2)]
    asked = Questions([[p] for p in range(20) for _ in range(2)], [], [row["completion"] for row in rows], set(), 0)
    counts = torch.as_tensor(task.kind.grade("bleu", asked, answers))

    class Runner:
        def __init__(self) -> None:
            self.task = task

        def predictions(self, trial: object) -> numpy.ndarray:
            return counts.numpy().reshape(-1)

    runner: Any = Runner()
    recipe: Any = None
    found = deviation_by_examples(runner, made_entry("full", 0.5), recipe, 20)
    once = bootstrap_interval(lambda rows: corpus_score("bleu", counts[::2][rows]), 20, draws=200)
    assert found == pytest.approx((once[1] - once[0]) / (2 * 1.959964))
    assert found > 0.02
