"""push and pull, against a local folder and a loopback stub of the hub's API."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import pickle
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from d90.errors import InputError
from d90.integrations import hub
from d90.integrations.model_card import base_on_hub, card, hub_dataset, local_name
from d90.subspace import file as tune_file
from d90.subspace.file import about
from d90.training.loading import open_tune
from d90.training.record import TuneRecord, read_record
from tests.reference.command import run as cli
from tests.reference.tiny import tiny_run

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_for_the_stub"


class Stub(ThreadingHTTPServer):
    """The few calls of the hub's API that push and pull make, over files in memory."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}  # where they differ from the truth
        self.seen: list[tuple[str, str]] = []
        self.created: dict[str, Any] = {}
        self.behaviour = "", ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, body: object, status: int = 200) -> None:
        self.answer(status, json.dumps(body).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(("POST", self.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.say({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(content)
            self.say({"url": f"{self.server.url}/owner/name", "id": "owner/name"})
        elif self.path == "/api/validate-yaml":
            self.say({"warnings": [], "errors": []})
        elif self.path == "/api/models/owner/name/preupload/main":
            names = [file["path"] for file in json.loads(content)["files"]]
            self.say({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif self.path == "/api/models/owner/name/commit/main":
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.say({"commitUrl": f"{self.server.url}/owner/name/commit/{SHA}", "commitOid": SHA, "success": True})
        else:
            self.say({"error": "not found"}, 404)

    def misbehave(self, behaviour: str) -> None:
        """One of the ways in which a hub can be hostile."""
        if behaviour == "refusing":
            self.say({"error": "no"}, 403)
        elif behaviour == "redirect":
            self.answer(302, b"", Location=self.path)
        elif behaviour == "wrong file":
            size = len(self.server.files.get(self.path.rpartition("/")[2], b"0123456789"))
            self.answer(200, pickle.dumps(print)[:size].ljust(size, b"x"))
        elif behaviour == "packed":
            self.answer(200, gzip.compress(bytes(1 << 20)), Content_Encoding="gzip")
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            end = time.monotonic() + 15
            with contextlib.suppress(OSError):
                while behaviour == "headers" and time.monotonic() < end:
                    self.wfile.write(b"X")
                    self.wfile.flush()
                    time.sleep(0.1)
                if behaviour == "truncated":
                    self.wfile.write(b"Content-Length: 100000\r\n\r\n{")
                else:
                    self.wfile.write(b"\r\n")
                while behaviour in ("slow", "endless") and time.monotonic() < end:
                    self.wfile.write(b" " * (1 if behaviour == "slow" else 1 << 20))
                    self.wfile.flush()
                    time.sleep(0.1 if behaviour == "slow" else 0)
            self.close_connection = True

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path))
        behaviour, where = self.server.behaviour
        if behaviour and where == ("file" if "/resolve/" in self.path else "listing"):
            self.misbehave(behaviour)
            return
        files = self.server.files
        held = re.fullmatch(rf"/owner/name/resolve/{SHA}/(.+)", self.path)
        if re.match(r"/api/models/owner/name(/revision/main)?(\?|$)", self.path) and files:
            siblings = [{"rfilename": n, "size": self.server.sizes.get(n, len(c))} for n, c in files.items()]
            self.say({"id": "owner/name", "modelId": "owner/name", "sha": SHA, "siblings": siblings})
        elif held and held[1] in files:
            self.answer(200, files[held[1]], ETag=f'"{held[1]}"', X_Repo_Commit=SHA)
        else:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    from huggingface_hub import constants

    server = Stub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # which the library reads once, at import
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    tiny_run(folder).release()
    (folder / "secret.txt").write_text("stays here")
    return folder / "task.d90"


TEXTS = [("a a b",), ("b b",)]


def test_what_is_pushed_comes_back(trained: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.push(trained, "owner/name", private=True) == f"{stub.url}/owner/name"
    assert stub.created["name"] == "name"
    assert stub.created["organization"] == "owner"
    assert set(stub.files) == {"task.d90", "task.json", "README.md"}
    sent = tmp_path.parent / "sent.d90"
    sent.write_bytes(stub.files["task.d90"])
    assert torch.equal(tune_file.read(sent)[1]["theta"], tune_file.read(trained)[1]["theta"])
    assert sent.stat().st_size == trained.stat().st_size
    stub.files["run_me.py"] = b"raise SystemExit('code is never fetched')"
    stub.seen.clear()
    pulled = hub.pull("owner/name", tmp_path / "here")
    assert sorted(p.name for p in pulled.parent.iterdir()) == ["task.d90", "task.json"]
    expected = open_tune(trained).predict(TEXTS)
    monkeypatch.chdir(trained.parent)  # the base model is found by its name, not by a path of the sender's
    assert open_tune(pulled).predict(TEXTS) == expected
    got = {path.rpartition("/")[2] for method, path in stub.seen if "/resolve/" in path}
    assert got == {"task.d90", "task.json"}, "nothing else is read back"
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


def test_a_local_folder_is_a_shelf(trained: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    assert hub.push(trained, str(shelf)) == str(shelf)
    assert sorted(p.name for p in shelf.iterdir()) == ["README.md", "task.d90", "task.json"]
    pulled = hub.pull(str(shelf), tmp_path / "here")
    assert pulled.read_bytes() == (shelf / "task.d90").read_bytes()
    with pytest.raises(InputError, match=r"there already.*another folder"):
        hub.push(trained, str(shelf))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_push_carries_no_path_of_this_machine(dtype: str, tmp_path: Path) -> None:
    home = tmp_path / "home" / "someone"
    home.mkdir(parents=True)
    run = tiny_run(home)
    run.save(home / "t.d90", dtype)
    run.release()
    hub.push(home / "t.d90", str(tmp_path / "shelf"))
    for file in (tmp_path / "shelf").iterdir():
        assert b"someone" not in file.read_bytes(), file.name
    before, after = (tune_file.read(path) for path in (home / "t.d90", tmp_path / "shelf" / "task.d90"))
    assert before[1].keys() == after[1].keys()
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    record, mine = read_record(tmp_path / "shelf" / "task.d90"), read_record(home / "t.d90")
    assert (record.recipe.model, record.recipe.task) == (Path(mine.recipe.model).name, Path(mine.recipe.task).name)
    assert after[0].recipe == record.digest != mine.digest
    assert replace(after[0], recipe="-") == replace(before[0], recipe="-")


def test_the_card_says_what_it_is(trained: Path) -> None:
    from huggingface_hub import ModelCard

    record = read_record(trained)
    read = ModelCard(card(record, about(trained), "owner/name"))
    data = read.data.to_dict()
    assert data["library_name"] == "d90"
    assert "base_model" not in data, "a local folder is no model of the hub's"
    assert data["d90"] == {
        "version": record.version,
        "method": record.recipe.method,
        "d": 20,
        "task": "data",
        "metric": "accuracy",
        "score": round(record.outcome.score, 6),
        "sizes": record.task.sizes,
        "max_length": record.task.max_length,
        "base_fingerprint": about(trained).header.base,
    }
    assert set(record.task.sizes) >= {"train", "validation"}
    assert f"{record.task.sizes['train']:,} train" in read.text
    assert f"at most {record.task.max_length}" in read.text
    assert "model-index" not in data, "no dataset of the hub's is guessed from a folder's name"
    assert "datasets" not in data
    assert 'predict([("some text",)])' in read.text
    assert str(trained.parent) not in read.content, "no path of this machine"
    elsewhere = replace(record, recipe=replace(record.recipe, model="minilm", task="glue/mrpc"))
    named = card(elsewhere, about(trained), "o/n")
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in named
    assert "<code>glue/mrpc</code>" in named
    result = ModelCard(named).data.to_dict()["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "nyu-mll/glue", "name": "glue/mrpc", "config": "mrpc", "split": "validation"}
    assert result["metrics"][0]["value"] == data["d90"]["score"]


def test_which_tasks_are_surely_the_hubs() -> None:
    assert hub_dataset("glue/sst2") == ("nyu-mll/glue", "sst2")
    assert hub_dataset("hub:owner/name/config") == ("owner/name", "config")
    for unsure in ("owner/name", "data/sst2", "./data", "docstrings", "rows.jsonl", "idx:digits", "text:a.txt"):
        assert hub_dataset(unsure) is None


def test_names_lose_the_machines_folders() -> None:
    paths = {
        "/home/u/bert": "bert",
        "./a/b": "b",
        "~/x/m": "m",
        "C:\\Users\\u\\m": "m",
        "text:/home/u/c.txt": "text:c.txt",
    }
    paths |= {"a/data.jsonl": "data.jsonl", "lines:private/c.txt": "lines:c.txt", "idx:a/b": "idx:b", "a/b/c": "c"}
    assert {path: local_name(path) for path in paths} == paths
    for name in ("minilm", "google/bert", "glue/mrpc", "hub:owner/name/config", "mlp:16-3", "docstrings"):
        assert local_name(name) == name


HOSTILE_TEXTS = [
    "a | b\n| injected | row |", "\x1b[2J\x1b]0;owned\x07", "[click](https://evil.example)", "<script>alert(1)</script>",
    "![x](https://evil.example/x.png)", "`code` **bold**", "\u202egnp.exe", "---\nlicense: mit\n---",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_the_card_escapes_what_comes_from_files(text: str, trained: Path) -> None:
    from huggingface_hub import ModelCard

    record = read_record(trained)
    body = record.stored
    recipe, task = (
        {**body["recipe"], "model": f"./{text}", "task": f"./{text}"},
        {**body["task"], "labels": [text, "b"]},
    )
    hostile = TuneRecord.from_dict({**body, "d90": text, "recipe": recipe, "task": task})
    plain, written = card(record, about(trained), "o/n"), card(hostile, about(trained), f"./{text}")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", written)
    body = ModelCard(written).text
    assert body.count("\n") == ModelCard(plain).text.count("\n"), "no line is added"
    assert not re.search(r"<script|(?<!\\)\]\(https://evil|(?<!\\)\*\*bold", body)
    data = ModelCard(written).data.to_dict()
    assert set(data) == set(ModelCard(plain).data.to_dict())
    assert "license" not in data


def test_which_names_are_the_hubs() -> None:
    assert base_on_hub("bert-base-uncased") == "bert-base-uncased"
    assert base_on_hub("google/bert") == "google/bert"
    for local in ("fc", "mlp:4-2", "./bert", "/models/bert", "a/b/c", "~/bert", "a b"):
        assert base_on_hub(local) is None


def one_line(words: str, *arguments: str, cwd: Path) -> None:
    done = cli(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(cwd.iterdir()), "nothing is left behind"


def test_no_token_no_network_no_repository(
    trained: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    tune = str(trained)
    one_line("the hub answered 404", "pull", "owner/name", "--out", "x", cwd=tmp_path)
    one_line("expected OWNER/NAME", "push", tune, "name", cwd=tmp_path)
    one_line("expected OWNER/NAME", "pull", "a/b/c", "--out", "x", cwd=tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    one_line("the hub answered 401", "push", tune, "owner/name", cwd=tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    one_line("no token for the hub", "push", tune, "owner/name", cwd=tmp_path)
    assert not stub.files
    stub.shutdown()
    stub.server_close()
    one_line("Check the network", "pull", "owner/name", "--out", "x", cwd=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    one_line("is offline (HF_HUB_OFFLINE)", "pull", "owner/name", "--out", "x", cwd=tmp_path)


def test_what_is_not_a_tune_is_not_put_in_place(trained: Path, stub: Stub, tmp_path: Path) -> None:
    hub.push(trained, "owner/name")
    good = dict(stub.files)
    pull = ("pull", "owner/name", "--out", "x")
    stub.sizes = {"task.d90": 5 << 30}
    stub.seen.clear()
    one_line("expected at most", *pull, cwd=tmp_path)
    assert not [path for _, path in stub.seen if "/resolve/" in path], "sizes come first"
    stub.sizes = {}
    bad = {
        "holds no task.json": {"task.d90": good["task.d90"]},
        "not a sound d90 file": good | {"task.d90": pickle.dumps(print)},
        "is not the recipe of a tune": good | {"task.json": b"[" * 100_000},
        "it was edited": good | {"task.json": good["task.json"].replace(b'"recipe_hash": "', b'"recipe_hash": "0')},
        "checksum": good | {"task.d90": good["task.d90"][:-1] + bytes([good["task.d90"][-1] ^ 1])},
    }
    for words, files in bad.items():
        stub.files = files
        one_line(words, *pull, cwd=tmp_path)


HOSTILE = {
    "slow": "it took longer than",
    "endless": "more than the",
    "truncated": "bytes; fetch it again",
    "wrong file": "not a sound d90 file",
    "redirect": "Check the network",
    "refusing": "the hub answered 403",
    "packed": "packed, which was not asked for",
    "headers": "it took longer than",
}


@pytest.mark.parametrize("behaviour", HOSTILE)
@pytest.mark.parametrize("where", ["listing", "file"])
def test_a_hostile_hub_ends_in_one_line_and_leaves_nothing(
    behaviour: str, where: str, trained: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("d90.integrations.download.GRACE", 1.0)
    monkeypatch.setattr("d90.integrations.download.SLOWEST", 1 << 30)
    monkeypatch.setattr("d90.integrations.download.STALL", 0.5)
    hub.push(trained, "owner/name")
    stub.behaviour = behaviour, where
    words = HOSTILE[behaviour]
    if where == "listing" and behaviour in ("truncated", "wrong file"):
        words = "no list of files" if behaviour == "wrong file" else "was not fetched"
    if behaviour == "truncated" and where == "file":
        words = "was not fetched"
    began = time.monotonic()
    one_line(words, "pull", "owner/name", "--out", "x", cwd=tmp_path)
    assert time.monotonic() - began < 20


def test_push_and_pull_say_what_they_did(trained: Path, stub: Stub, tmp_path: Path) -> None:
    sent = cli("push", str(trained), "owner/name", cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    assert "task.d90" in sent.stdout
    assert "note: the recipe names the base model" in sent.stdout
    done = cli("pull", "owner/name", "--out", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    again = cli("pull", "owner/name", "--out", "x", cwd=tmp_path)
    assert (again.returncode, "there already" in again.stderr) == (2, True)
