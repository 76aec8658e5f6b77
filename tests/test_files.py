"""The one atomic writer, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

import d90
from d90.errors import InputError, RunFailed
from d90.files import check_output, check_outputs, new_folder, replaced, write_text
from d90.integrations.convert import convert
from d90.integrations.merge import merge
from d90.trials.store import Store
from tests.reference.command import run
from tests.reference.tokenizer import save_tokenizer


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    write_text(target, "one\n")

    def fail() -> None:
        with replaced(target) as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "one\n"
    assert os.listdir(target.parent) == ["a.txt"]


def test_links_modes_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("x")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "y")
    assert link.is_symlink()
    assert real.read_text() == "y"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    write_text("/dev/null", "z")
    assert not Path("/dev/null").is_file()


def test_stores_and_folders_are_never_overwritten(tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    Store(store).close()
    before = store.read_bytes()
    for call in (lambda: write_text(store, "page"), lambda: check_output(store)):
        with pytest.raises(InputError, match="is an SQLite file, as a store of trials is, and would be overwritten"):
            call()
    with pytest.raises(InputError, match="which is a folder; expected the name of a file in it"):
        check_output(tmp_path)
    with pytest.raises(InputError, match="both to write to and as the store"):
        check_output(tmp_path / "new.sqlite", tmp_path / "." / "new.sqlite")
    with pytest.raises(InputError, match="is a file, not a folder"):
        check_output(store / "page.html")
    assert store.read_bytes() == before
    with closing(sqlite3.connect(store)) as db, db:
        assert db.execute("SELECT count(*) FROM trials").fetchone() == (0,)


def test_a_full_disk_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_text(tmp_path / "a.txt", "one")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        write_text(target, "two")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert target.read_text() == "one"


COMMANDS = {
    "report --out STORE": ("report", "--store", "s.sqlite", "--out", "s.sqlite"),
    "measure --page STORE": ("measure", "fc", "idx:none", "--store", "s.sqlite", "--page", "s.sqlite"),
    "compare --page STORE": ("compare", "fc", "idx:none", "--store", "s.sqlite", "--page", "./s.sqlite"),
    "measure --store x.html": ("measure", "fc", "idx:none", "--store", "x.html"),
    "train --out STORE": ("train", "fc", "idx:none", "--out", "s.sqlite"),
    "train --out, its recipe": ("train", "fc", "idx:none", "--out", "t.d90"),
    "train --out FOLDER": ("train", "fc", "idx:none", "--out", "folder"),
    "train --out below a file": ("train", "fc", "idx:none", "--out", "s.sqlite/t.d90"),
    "export --out STORE": ("export", "s.sqlite", "--out", "s.csv"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_refuses_before_it_begins(tmp_path: Path, what: str) -> None:
    """Exit 2 in one line; the task does not even exist, so nothing was trained."""
    Store(tmp_path / "s.sqlite").close()
    for name in ("t.json", "s.csv"):
        os.link(tmp_path / "s.sqlite", tmp_path / name)
    (tmp_path / "folder").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = run(*COMMANDS[what], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert any(word in done.stderr for word in ("overwritten", "folder", "a page's", "both to write to")), done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_outputs_of_a_command_that_writes_a_folder_are_its_own_matter(tmp_path: Path) -> None:
    for command in ("merge", "run"):
        check_outputs(command, {"out": tmp_path})
    with pytest.raises(InputError, match="is a folder"):
        check_outputs("measure", {"store": tmp_path})


def _half_written(target: Path, error: BaseException) -> None:
    with new_folder(target) as whole:
        (whole / "config.json").write_text("{}")
        raise error


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(RunFailed, match=r"could not be written: No space left on device\. Nothing was left there"):
        _half_written(target, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        _half_written(target, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    target.mkdir()  # an empty one is taken
    with new_folder(target) as whole:
        (whole / "config.json").write_text("{}")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "config.json"]
    with pytest.raises(InputError, match="holds something already, expected a new or empty folder"):
        _half_written(target, ZeroDivisionError())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("form", ["merge", "lora", "peft"])
def test_a_written_model_or_adapter_is_whole_or_not_there(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle of save_pretrained left half a folder, which looked like an adapter."""
    base, task = tmp_path / "base", tmp_path / "t.jsonl"
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=7, max_position_embeddings=16, pad_token_id=0, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(base)
    save_tokenizer(base, marks=True)
    rows = [{"text": "a a b" if i % 2 else "c b c", "label": i % 2} for i in range(24)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    method = "full@d=8" if form == "peft" else "lora:r=2"
    d90.train(str(base), str(task), method, epochs=1, batch_size=8, precision="fp32").save(tmp_path / "task.d90")
    wanted, write = tmp_path / "out", safetensors.torch.save_file

    def full_disk(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    def written() -> None:
        if form == "merge":
            merge(tmp_path / "task.d90", wanted)
        else:
            convert(tmp_path / "task.d90", form, wanted, check=False)

    with monkeypatch.context() as patched:
        for module in ("peft.peft_model.safe_save_file", "transformers.modeling_utils.safe_save_file"):
            patched.setattr(module, full_disk)
        with pytest.raises(RunFailed, match="could not be written: No space left"):
            written()
    before = {path.name for path in tmp_path.iterdir()}
    assert before == {"base", "t.jsonl", "task.d90", "task.json"}, "nothing is left, and nothing beside it"
    written()
    assert any(wanted.glob("*.safetensors"))
