"""The examples run as their first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_a_controller_of_cartpole_is_searched_and_goes_on_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")

    def run(budget: int) -> list[str]:
        command = [sys.executable, str(EXAMPLES / "cartpole.py"), "--store", "cartpole.sqlite", "--budget", str(budget)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first = run(2)
    assert first[0].startswith("d = 16, seed 0: ")
    assert float(first[0].split()[5]) > 100, "sixteen numbers keep the pole up"
    second = run(3)
    assert not set(first[:-2]) & set(second[:-2]), "a trial that is stored is not made again"
    assert (tmp_path / "cartpole.html").is_file()


@pytest.mark.slow
def test_a_server_answers_two_clients_each_with_its_own_tune(tmp_path: Path) -> None:
    """Over loopback: as `d90 predict` answers with each tune alone, and an unknown tune is an error of its request alone."""
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason="the server is the example's own extra, d90[serve]")
    import json
    import socket
    import threading
    import time
    import urllib.error
    import urllib.request

    import torch

    from d90.subspace import file as tune_file
    from d90.training.loading import open_tune
    from tests.reference.tiny import tiny_run

    tunes = tmp_path / "tunes"
    tunes.mkdir()
    for name, method in (("anna", "lora:r=2@d=20"), ("ben", "lora:r=3")):
        tiny_run(tmp_path, method).release()
        for ending in ("d90", "json"):
            (tmp_path / f"task.{ending}").rename(tunes / f"{name}.{ending}")
        header, tensors = tune_file.read(tunes / f"{name}.d90")  # far from the base, and from one another
        generator = torch.Generator().manual_seed(len(name))
        moved = {key: value + torch.randn(value.shape, generator=generator) for key, value in tensors.items()}
        tune_file.write(tunes / f"{name}.d90", header, moved)
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]

    def ask(tune: str | None, text: str) -> dict[str, float]:
        body = json.dumps({"tune": tune, "text": text}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    server = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "serve.py"), str(tunes), "--port", str(port)], cwd=EXAMPLES.parent
    )
    try:
        for _ in range(1800):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        texts = ["a a b", "b b c", "a c", "b"]
        expected = {
            name: open_tune(tunes / f"{name}.d90").describe([(text,) for text in texts]) for name in ("anna", "ben")
        }
        found: dict[str, list[dict[str, float]]] = {"anna": [], "ben": []}

        def client(name: str) -> None:
            found[name] = [ask(name, text) for text in texts * 3]

        clients = [threading.Thread(target=client, args=(name,)) for name in found]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        for name, answers in found.items():
            for answer, right in zip(answers, expected[name] * 3, strict=True):
                assert answer.keys() == right.keys()
                for key, value in right.items():
                    assert answer[key] == (pytest.approx(value, abs=1e-5) if isinstance(value, float | dict) else value)
        answers = [found["anna"][0], found["ben"][0], ask(None, "a a b")]
        assert all(answers[i] != answers[i - 1] for i in range(3)), "two tunes and the base differ"
        with pytest.raises(urllib.error.HTTPError, match="422") as error:
            ask("nobody", "a a b")
        assert "unknown tune 'nobody'" in error.value.read().decode()
    finally:
        server.terminate()
        server.wait(30)
