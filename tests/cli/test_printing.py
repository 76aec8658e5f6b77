"""Control characters from names and files reach no terminal: every command, in what it prints and in its errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from d90.cli.main import COMMANDS
from d90.errors import printable
from tests.reference.command import run
from tests.reference.tiny import tiny_model

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp\x9b1m\r"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")

ARGUMENTS = {
    "measure": (HOSTILE, HOSTILE, "-m", HOSTILE),
    "train": (HOSTILE, HOSTILE),
    "advise": (HOSTILE, HOSTILE),
    "predict": (f"./{HOSTILE}.d90", HOSTILE),
    "generate": (f"./{HOSTILE}.d90", HOSTILE),
    "evaluate": (f"./{HOSTILE}.d90",),
    "compare": (HOSTILE, HOSTILE, "--methods", HOSTILE),
    "certify": (f"./{HOSTILE}.d90",),
    "analyze": (f"./{HOSTILE}.d90",),
    "latency": ("--shape", HOSTILE),
    "preflight": (HOSTILE, "--method", HOSTILE),
    "report": ("--store", f"./{HOSTILE}.sqlite"),
    "gap": (f"./{HOSTILE}.sqlite",),
    "export": (f"./{HOSTILE}.sqlite", "--out", "x.csv"),
    "pretrain": (f"./{HOSTILE}.txt",),
    "trajectory": (HOSTILE, "other", "--rule", HOSTILE),
    "family": (HOSTILE, "other", "--target", HOSTILE),
    "lowdata": (HOSTILE, HOSTILE, "--counts", HOSTILE),
    "run": (f"./{HOSTILE}.yaml",),
    "push": (f"./{HOSTILE}.d90", "./shelf"),
    "pull": (f"./{HOSTILE}", "--out", "x"),
    "merge": (f"./{HOSTILE}.d90", "--out", "x"),
    "convert": (f"./{HOSTILE}.d90", "--to", HOSTILE, "--out", "x"),
    "verify": (f"./{HOSTILE}.json",),
    "inspect": (f"./{HOSTILE}.d90",),
    "methods": (HOSTILE,),
    "tasks": (HOSTILE,),
}


def test_every_command_is_tried() -> None:
    assert {command.__name__ for command in COMMANDS} - {"demo"} == set(ARGUMENTS)  # which reads nothing from outside


@pytest.mark.parametrize("command", ARGUMENTS)
def test_no_command_repeats_control_characters(command: str, tmp_path: Path) -> None:
    done = run(command, *ARGUMENTS[command], cwd=tmp_path)
    assert done.returncode in (1, 2), done.stdout
    assert done.stderr.startswith("d90: ")
    assert not STEERS.search(done.stdout + done.stderr), repr(done.stderr)


def test_labels_and_texts_of_a_file_are_shown_written_out(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    rows = [{"text": "a a b" if i % 2 else "b b", "label": f"{HOSTILE}{i % 2}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--epochs", "1", "--out", "t.d90", "--lr", "0.01")
    done = run("train", str(model), "rows.jsonl", "--method", "full@d=8", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [done]
    for command in (("predict", "t.d90", f"a {HOSTILE}"), ("evaluate", "t.d90"), ("inspect", "t.d90")):
        said.append(run(*command, cwd=tmp_path))
        assert said[-1].returncode == 0, said[-1].stderr
    assert "\\x1b]0;owned" in said[1].stdout, "the label is shown, its escape written out"
    for one in said:
        assert not STEERS.search(one.stdout + one.stderr)


def test_printable_keeps_what_shows_as_itself() -> None:
    for text in ("plain", "naïve 日本語", "👩\u200d👧", "a\tb\nc"):
        assert printable(text) == text
    assert printable("\x1b[2J") == "\\x1b[2J"
    assert printable("a\rb\x00\x9b\u202e\udcff") == "a\\rb\\x00\\x9b\\u202e\\udcff"
