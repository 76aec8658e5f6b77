"""Tunes of formats 1 and 2: read by every command, which says once what they do not cover."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from safetensors.torch import save_file

from d90.subspace import file as tune_file
from d90.subspace.fingerprint import NOT_COVERED, earlier_weights
from d90.training.recipe import recipe_key
from tests.reference.command import run as cli
from tests.reference.tiny import tiny_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """new.d90, and old.d90: the same tune as d90 wrote it first."""
    folder = tmp_path_factory.mktemp("tunes")
    run = tiny_run(folder)
    whole, base = earlier_weights(run.release().named_parameters()), run.model.earlier
    header, tensors = tune_file.read(folder / "task.d90")
    record = json.loads((folder / "task.json").read_text())
    named = recipe_key(record["recipe"], record["task"]["fingerprint"], base)[:16]
    values = {**asdict(header), "base": whole, "recipe": named}
    fields = [str(value) for name, value in values.items() if name not in ("tokenizer", "format")]
    save_file(tensors, folder / "old.d90", {"d90": "|".join(["1", *fields])})
    (folder / "old.json").write_text(json.dumps({**record, "base": base, "recipe_hash": named}))
    return folder


pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
COMMANDS = {
    "predict": ["TUNE", "a a b", "b b"],
    "evaluate": ["TUNE"],
    "merge": ["TUNE", "--out", "OUT"],
    "convert": ["TUNE", "--to", "peft", "--out", "OUT"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_earlier_tune_is_read_and_what_it_does_not_cover_is_said_once(
    folder: Path, tmp_path: Path, command: str
) -> None:
    said = {}
    for name in ("task", "old"):
        places = {"TUNE": str(folder / f"{name}.d90"), "OUT": str(tmp_path / name)}
        done = cli(command, *(places.get(word, word) for word in COMMANDS[command]), cwd=folder)
        assert done.returncode == 0, done.stderr
        said[name] = (done.stdout.replace(str(tmp_path / name), ""), done.stderr)
    assert said["old"][0] == said["task"][0], "the same result, and nothing else on standard output"
    assert said["task"][1].count(NOT_COVERED) == 0
    assert said["old"][1].count(NOT_COVERED) == 1
    assert said["old"][1].startswith(f"note: '{folder / 'old.d90'}': it was written before")
