"""Every command on every kind of task: it works, or says in one line why it cannot."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.reference.command import Done, run
from tests.reference.families import save_family
from tests.reference.tiny import tiny_model
from tests.reference.tiny_causal import tiny_causal

CAUSAL = ("language", "instruction")
# what predict is asked; a list of texts of one example
ASKED = {
    "masked": ["a [UNK] b"],
    "multiple-choice": ["a", "a", "b", "c"],
    "question-answering": ["a", "b a c"],
    "embeddings": ["a b", "b c"],
}
KINDS = (
    "classification", "regression", "multi-label", "tokens", "question-answering", "multiple-choice", "embeddings", "masked", "language",
    "instruction", "seq2seq", "image-classification",
)  # fmt: skip
# what a command says of a kind that it cannot serve
REFUSED = {
    ("predict", "language"): "use 'd90 generate'",
    ("predict", "instruction"): "use 'd90 generate'",
    ("certify", "regression"): "a number is near or far",
    ("certify", "multi-label"): "an example's classes may be right in part",
    ("certify", "embeddings"): "whether a text is found depends on the others",
    ("certify", "masked"): "a text's hidden tokens are right in part",
}
# what so short a training or search may end in
UNLUCKY = {
    "gap": ("found d90",),
    "advise": ("does not beat the constant guess", "the budget ended before"),
    "convert to lora": ("changes no weight",),
    "analyze": ("changes no matrix",),
}


def rows(kind: str, seed: int) -> list[dict[str, Any]]:
    """Examples of 3 to 6 words that no two share, as far as three words allow."""
    draw, found, seen = random.Random(seed), list[dict[str, Any]](), set[str]()
    while len(found) < 56:
        words = draw.choices("abc", k=draw.randint(4, 7))
        text, place = " ".join(words), 2 * draw.randrange(len(words))
        if text in seen:
            continue
        seen.add(text)
        more = words.count("a") > words.count("b")
        found.append({
            "classification": {"text": text, "label": "more" if more else "less"},
            "regression": {"text": text, "label": words.count("a") + 0.5},
            "multi-label": {"text": text, "labels": sorted({*words} - {"c"})},
            "tokens": {"tokens": words, "tags": ["O" if word == "c" else f"B-{word}" for word in words]},
            "question-answering": {
                "question": "a", "context": text, "answers": {"text": [text[place]], "answer_start": [place]}
            },
            "multiple-choice": {"question": text, "choices": ["a", "b", "c"], "answer": words[0]},
            "embeddings": {"anchor": text, "positive": text[::-1]},
            "masked": {"text": text},
            "language": {"text": text},
            "instruction": {"prompt": text, "completion": words[0]},
            "seq2seq": {"source": text, "target": words[0]},
        }[kind])  # fmt: skip
    return found


def world(kind: str, folder: Path) -> None:
    """folder/base, a model, and folder/data, a task in three splits."""
    parts = ("train", "validation", "test")
    if kind == "image-classification":
        from tests.reference.pictures import save_pictures, save_vit

        save_vit(folder / "base")
        for part in parts:
            save_pictures(folder / "data" / part)
        return
    (folder / "data").mkdir()
    for seed, part in enumerate(parts):
        (folder / "data" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(kind, seed)))
    if kind in CAUSAL:
        tiny_causal(folder / "base")
    elif kind == "seq2seq":
        save_family("t5", folder / "base", "AutoModelForSeq2SeqLM")
    elif kind == "masked":
        save_family("bert", folder / "base", "AutoModelForMaskedLM")
        config = json.loads((folder / "base" / "tokenizer_config.json").read_text())
        (folder / "base" / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": "[UNK]"}))
    else:
        tiny_model(folder / "base")


def commands(kind: str) -> dict[str, tuple[str, ...]]:
    """The words of each command, in the order in which they need one another."""
    of = ("--kind", kind) if kind != "image-classification" else ()
    short = ("--epochs", "1", "--evaluations", "1", "--batch-size", "20", "--precision", "fp32", *of)
    study = ("base", "data", *short, "--store", "s.sqlite")
    rule = () if kind in ("classification", "tokens", "multiple-choice", "image-classification") else ("--rule", "gain")
    asked = ASKED.get(kind, ["data/train/a/0.png" if kind == "image-classification" else "a b a"])
    return {
        "train": (
            "train", "base", "data", *of, "--method", "full", "--d", "20", "--lr", "0.02", "--metric", "loss", "--epochs", "4",
            "--evaluations", "4", "--batch-size", "8", "--precision", "fp32", "--out", "t.d90",
        ),
        "predict": ("predict", "t.d90", *asked, "--format", "jsonl"),
        "evaluate": ("evaluate", "t.d90"),
        "evaluate test": ("evaluate", "t.d90", "--split", "test"),
        "inspect": ("inspect", "t.d90"),
        "push": ("push", "t.d90", "./shelf"),
        "pull": ("pull", "./shelf", "--out", "pulled"),
        "merge": ("merge", "t.d90", "--out", "merged"),
        "convert": ("convert", "t.d90", "--to", "peft", "--out", "adapter"),
        "convert to lora": ("convert", "t.d90", "--to", "lora", "--rank", "2", "--out", "lora"),
        "analyze": ("analyze", "t.d90"),
        "measure": ("measure", *study, "--lr", "0.01", "--start", "16", "--budget", "3", "--fraction", "0.01", *rule),
        "gap": ("gap", "s.sqlite", "--out", "gap.html"),
        "compare": ("compare", *study, "--methods", "full@d=10 full@d=20", "--rates", "1", "--no-costs"),
        "lowdata": ("lowdata", *study, "--methods", "full@d=10", "--counts", "20", "--rates", "1"),
        "certify": (
            "certify", "base", "data", *of, "--dims", "10", "--levels", "3", "--epochs", "1", "--precision", "fp32", "--out", "c.json",
            "--store", "c.sqlite",
        ),
        "advise": ("advise", *study, "--methods", "lora:r=1 lora:r=2", "--like", "lora:r=4", "--budget", "16", "--out", "a.d90"),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_takes_a_kind_or_says_why_not(kind: str, tmp_path: Path) -> None:
    world(kind, tmp_path)
    wrong: dict[str, Done] = {}
    for name, words in commands(kind).items():
        done = run(*words, cwd=tmp_path)
        said = REFUSED.get((name, kind))
        if any(words in done.stderr for words in UNLUCKY.get(name, ())):
            continue
        if said is None:
            if done.returncode != 0:
                wrong[name] = done
        elif done.returncode != 2 or said not in done.stderr.replace("\n", " "):
            wrong[name] = done
    assert not wrong, "\n".join(f"{name}: {done.returncode} {done.stderr[-600:]}" for name, done in wrong.items())
