"""Tunes of formats 1 and 2: read by every command, which says once what they do not cover."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors.torch import save, save_file

from d90.subspace import file as tune_file
from d90.subspace.fingerprint import NOT_COVERED, earlier_weights
from d90.training.recipe import recipe_key
from tests.reference.command import run as cli
from tests.reference.tiny import tiny_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """task.d90, and the same tune as earlier versions wrote it: format1.d90, and format2.d90 with its checksum."""
    folder = tmp_path_factory.mktemp("tunes")
    run = tiny_run(folder)
    whole, base = earlier_weights(run.release().named_parameters()), run.model.earlier
    header, tensors = tune_file.read(folder / "task.d90")
    record = json.loads((folder / "task.json").read_text())
    named = recipe_key(record["recipe"], record["task"]["fingerprint"], base)[:16]
    values = {**asdict(header), "base": whole, "recipe": named}
    fields = [str(value) for name, value in values.items() if name not in ("tokenizer", "format")]
    save_file(tensors, folder / "format1.d90", {"d90": "|".join(["1", *fields])})
    plain = save(tensors, {"d90": "|".join(["2", *fields, "0" * 8])})
    check = hashlib.sha256(plain).hexdigest()[:8]
    (folder / "format2.d90").write_bytes(plain.replace(b"|" + b"0" * 8, f"|{check}".encode(), 1))
    for name in ("format1", "format2"):
        (folder / f"{name}.json").write_text(json.dumps({**record, "base": base, "recipe_hash": named}))
    return folder


pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
COMMANDS = {
    "predict": ["TUNE", "a a b", "b b"],
    "evaluate": ["TUNE"],
    "merge": ["TUNE", "--out", "OUT"],
    "convert": ["TUNE", "--to", "peft", "--out", "OUT"],
}


@pytest.mark.parametrize(
    ("command", "old"), [*((name, "format1") for name in COMMANDS), ("predict", "format2"), ("merge", "format2")]
)
def test_an_earlier_tune_is_read_and_what_it_does_not_cover_is_said_once(
    folder: Path, tmp_path: Path, command: str, old: str
) -> None:
    said = {}
    assert str(tune_file.about(folder / f"{old}.d90").format) == old[-1]
    for name in ("task", old):
        places = {"TUNE": str(folder / f"{name}.d90"), "OUT": str(tmp_path / name)}
        done = cli(command, *(places.get(word, word) for word in COMMANDS[command]), cwd=folder)
        assert done.returncode == 0, done.stderr
        said[name] = (done.stdout.replace(str(tmp_path / name), ""), done.stderr)
    assert said[old][0] == said["task"][0], "the same result, and nothing else on standard output"
    assert said["task"][1].count(NOT_COVERED) == 0
    assert said[old][1].count(NOT_COVERED) == 1
    assert said[old][1].startswith(f"note: '{folder / (old + '.d90')}': it was written before")
