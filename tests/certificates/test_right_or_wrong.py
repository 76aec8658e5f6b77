"""Certificates of examples that are right or wrong as a whole: sentences of tags, answers, choices; and reasons where none is."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import d90
from d90.certificates.classification import check, one_of_each
from d90.certificates.gaussian import check_gaussian
from d90.certificates.verify import verify
from d90.certificates.verify_gaussian import verify as verify_gaussian
from d90.errors import InputError
from d90.tasks import Split
from d90.tasks import load as load_task
from d90.tasks.kinds import Answering, Tokens
from tests.reference.tiny import tiny_model

SMALL: dict[str, Any] = {"dims": (10,), "levels": (3,), "epochs": 2, "quantise_epochs": 1, "precision": "fp32"}


def rows(kind: str, seed: int, count: int = 40) -> list[dict[str, Any]]:
    draw, seen, found = random.Random(seed), set[str](), list[dict[str, Any]]()
    while len(found) < count:
        words = draw.choices("abc", k=draw.randint(5, 8))
        text, place = " ".join(words), 2 * draw.randrange(len(words))
        if text in seen:
            continue
        seen.add(text)
        found.append({
            "tokens": {"tokens": words, "tags": ["B-x" if word == "a" else "O" for word in words]},
            "question-answering": {
                "question": "c", "context": text, "answers": {"text": [text[place]], "answer_start": [place]}
            },
            "multiple-choice": {"question": text, "choices": ["a", "b", "c"], "answer": words[0]},
            "multi-label": {"text": text, "labels": sorted({*words} - {"c"})},
            "regression": {"text": text, "label": words.count("a") + 0.5},
            "embeddings": {"anchor": text, "positive": text[::-1]},
            "masked": {"text": text},
        }[kind])  # fmt: skip
    return found


def written(folder: Path, kind: str) -> str:
    folder.mkdir()
    for seed, part in enumerate(("train", "validation", "test")):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(kind, seed)))
    return str(folder)


@pytest.mark.parametrize("kind", ["tokens", "question-answering", "multiple-choice"])
def test_an_examples_error_is_counted_again_from_the_file(tmp_path: Path, kind: str) -> None:
    base, data = str(tiny_model(tmp_path / "base")), written(tmp_path / "data", kind)
    found = d90.certify(base, data, "full@structure=did", store=tmp_path / "s.sqlite", **SMALL)
    found.save(tmp_path / "c.json")
    assert (found.n, found.test_count) == (40, 40)
    assert found.error <= found.bound <= 1
    again = check(tmp_path / "c.json", out=tmp_path / "rows.npy")
    assert again.errors == found.errors
    held = numpy.load(tmp_path / "rows.npy")
    assert held.shape == (40, 2)
    assert int((held[:, 0] != held[:, 1]).sum()) == found.errors
    assert verify(str(tmp_path / "c.json"), str(tmp_path / "rows.npy"))[-1].startswith(
        f"{found.errors} errors counted again"
    )
    task = load_task(data)
    assert found.majority == pytest.approx(task.kind.constant_error(task.train, task.splits["test"]))


def test_one_question_of_each_context_counts(tmp_path: Path) -> None:
    """With two questions to each context: those alone are independent; a part for the prior shares none with the rest."""
    base, data = str(tiny_model(tmp_path / "base")), tmp_path / "data"
    data.mkdir()
    for seed, part in enumerate(("train", "validation", "test")):
        once = rows("question-answering", seed)
        pairs = [{**row, "question": question} for row in once for question in ("c", "a")]
        (data / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    found = d90.certify(base, str(data), "full@structure=did", store=tmp_path / "s.sqlite", prior=0.5, **SMALL)
    assert (found.n, found.test_count, found.prior) == (20, 40, 40)
    assert any(
        line
        == "40 examples share 20 contexts: each is one independent example, of whose examples one counts, drawn by our own bits"
        for line in found.assumptions
    )
    found.save(tmp_path / "c.json")
    assert check(tmp_path / "c.json", out=tmp_path / "rows.npy").errors == found.errors
    assert numpy.load(tmp_path / "rows.npy").shape == (20, 2)
    verify(str(tmp_path / "c.json"), str(tmp_path / "rows.npy"))


def test_one_of_each_group_is_drawn_by_the_bits() -> None:
    groups = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2])
    chosen = one_of_each(groups)
    assert groups[chosen].tolist() == [0, 1, 2]
    many = torch.arange(3000) % 1000
    picked = one_of_each(many)
    assert many[picked].tolist() == list(range(1000))
    assert all(250 < int(((picked // 1000) == k).sum()) < 420 for k in range(3)), "each as likely as the others"


def test_a_sentence_is_wrong_where_a_tag_is_and_an_answer_where_it_is_not_exact() -> None:
    kind = Tokens(("B-x", "O"))
    labels = torch.tensor([[0, 1, -100], [1, 1, 0], [1, 0, 1]])
    outputs = 9 * torch.eye(2)[labels.clamp(min=0)]
    outputs[1, 2] = torch.finfo(torch.float32).min  # not seen: outside, and it is none
    outputs[2, 0, 1] = float("nan")
    answers, right = kind.held_against(outputs, Split([("a",)] * 3, labels))
    assert (answers == right).tolist() == [True, False, False]
    split = Split([("q", "a bcd e"), ("q", "a bcd e")], torch.tensor([[[2, 5]], [[0, 1]]]))
    spots = [(9.0 * (low == 2), 9.0 * (high == 5), low, high, 0) for low, high in ((0, 1), (2, 5), (6, 7))]
    answers, right = Answering().held_against(torch.tensor([spots, spots]), split)
    assert (answers == right).tolist() == [True, False]
    assert Answering().constant_error(split, split) == 0.5


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("multi-label", "an example's classes may be right in part"),
        ("regression", "a number is near or far, and never just right"),
        ("embeddings", "whether a text is found depends on the others"),
        ("masked", "a text's hidden tokens are right in part"),
    ],
)
def test_kinds_without_right_and_wrong_are_refused_with_the_reason(tmp_path: Path, kind: str, why: str) -> None:
    data = written(tmp_path / "data", kind)
    with pytest.raises(InputError, match=f"is a {kind}; a bound on the error rate needs classes, or .*: {why}"):
        d90.certify("minilm", data, "full@structure=did", store=tmp_path / "s.sqlite", kind=kind, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["gaussian", "draw"])
def test_one_question_of_each_context_counts_for_a_gaussian(tmp_path: Path, posterior: str) -> None:
    base, data = str(tiny_model(tmp_path / "base")), tmp_path / "data"
    data.mkdir()
    for seed, part in enumerate(("train", "validation", "test")):
        pairs = [{**row, "question": question} for row in rows("question-answering", seed) for question in ("c", "a")]
        (data / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    given = {name: value for name, value in SMALL.items() if name != "levels"}
    found = d90.certify_gaussian(
        base, str(data), "full@structure=did", store=tmp_path / "s.sqlite", posterior=posterior, passes=2, **given
    )
    assert found.n == 40
    assert found.best.predictions == (80 if posterior == "gaussian" else 40)
    found.save(tmp_path / "c.json")
    assert check_gaussian(tmp_path / "c.json", out=tmp_path / "rows.npy") == found
    verify_gaussian(str(tmp_path / "c.json"), str(tmp_path / "rows.npy"))
