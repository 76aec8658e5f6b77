"""Bad input of each kind of task from the command line: one line that says what is wrong and where, exit status 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reference.command import run
from tests.reference.families import save_family
from tests.reference.pictures import save_pictures
from tests.reference.tiny_causal import tiny_causal

TAGGED = {"tokens": ["a", "b"], "tags": ["B-x", "O"]}
ANSWERED = {"question": "a", "context": "a b", "answers": {"text": ["b"], "answer_start": [2]}}
CHOSEN = {"question": "a", "choices": ["a", "b", "c"], "answer": 0}


def _rows(good: dict[str, Any], bad: dict[str, Any]) -> Callable[[Path], None]:
    """Two good rows and a bad one as data.jsonl."""

    def write(folder: Path) -> None:
        rows = [good, good, {**good, **bad}]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


def _only_validation(good: dict[str, Any], bad: dict[str, Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "data.jsonl").mkdir()
        for part, row in (("train", good), ("validation", {**good, **bad})):
            (folder / "data.jsonl" / f"{part}.jsonl").write_text((json.dumps(row) + "\n") * 4)

    return write


def _broken_picture(folder: Path) -> None:
    save_pictures(folder / "data.jsonl", 6)
    (folder / "data.jsonl" / "a" / "2.png").write_bytes(b"no picture")


def _empty_class(folder: Path) -> None:
    save_pictures(folder / "data.jsonl", 6)
    (folder / "data.jsonl" / "c").mkdir()


def _class_of_validation(folder: Path) -> None:
    save_pictures(folder / "data.jsonl" / "train", 6)
    save_pictures(folder / "data.jsonl" / "validation", 6)
    (folder / "data.jsonl" / "validation" / "b").rename(folder / "data.jsonl" / "validation" / "z")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "tags and words of different lengths": (_rows(TAGGED, {"tags": ["O"]}), "line 3: 2 words and 1 tags"),
    "a tag that validation alone has": (_only_validation(TAGGED, {"tags": ["B-z", "O"]}), "line 1: label 'B-z' is not among the 2"),
    "an answer beside its offset": (
        _rows(ANSWERED, {"answers": {"text": ["b"], "answer_start": [0]}}), "line 3: the answer 'b' is not at its offset 0",
    ),
    "an empty context": (_rows(ANSWERED, {"context": " "}), "line 3: 'context' is empty"),
    "choices of unequal number": (_rows(CHOSEN, {"choices": ["a", "b"]}), "line 3: 2 choices and line 1 has 3"),
    "an answer that is no choice": (_rows(CHOSEN, {"answer": "z"}), "line 3: the answer 'z' in column 'answer' is none of the 3"),
    "a broken picture": (_broken_picture, "a/2.png: broken picture"),
    "an empty class folder": (_empty_class, "no picture in this class folder"),
    "a class that validation alone has": (_class_of_validation, "label 'z' is not among the 2 training labels a, b"),
    "an empty source": (_rows({"source": "a", "target": "b"}, {"source": ""}), "line 3: 'source' is empty"),
    "columns of two kinds": (
        _rows({"anchor": "a", "positive": "b", "source": "a", "target": "b"}, {}),
        "it looks like seq2seq and embeddings; say which with --kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_status_two(tmp_path: Path, name: str) -> None:
    write, words = BAD[name]
    write(tmp_path)
    done = run("train", "no-model-is-reached", "data.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("base", "row", "options", "words"),
    [
        ("llama", {"source": "a", "target": "b"}, (), "is no encoder-decoder, expected one such as T5"),
        ("t5", {"prompt": "a", "completion": "b"}, (), "add --kind seq2seq"),
        ("t5", {"text": "a b"}, ("--kind", "masked"), "is an encoder-decoder, expected an encoder for a task of kind masked"),
        ("llama", {"text": "a b"}, ("--kind", "masked"), "transformers has no AutoModelForMaskedLM for it"),
    ],
)  # fmt: skip
def test_a_model_of_another_direction_is_one_line_with_what_fits(
    tmp_path: Path, base: str, row: dict[str, str], options: tuple[str, ...], words: str
) -> None:
    tiny_causal(tmp_path / "m") if base == "llama" else save_family(base, tmp_path / "m", "AutoModelForSeq2SeqLM")
    _rows(row, {})(tmp_path)
    done = run("train", "m", "data.jsonl", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
