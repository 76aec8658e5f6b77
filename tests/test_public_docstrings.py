"""Every public name says what it takes and raises, and has an example that runs."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import d90
from tests.reference.blobs import blobs
from tests.reference.tiny import tiny_model, tiny_task
from tests.reference.tiny_causal import tiny_causal, tiny_documents

NAMES = [name for name in d90.__all__ if not inspect.ismodule(getattr(d90, name)) and name != "__version__"]
REGISTERING = [name for name in NAMES if name.startswith("register_") and name != "register_task"]
SLOW = {"Series", "trajectory", "family", "advise", "Recommendation", "certify_language", "LanguageCertificate"}
SLOW |= {"pretrain", "generalization", "LowData", "low_data", "merge"}


def doc_of(name: str) -> str:
    return inspect.getdoc(getattr(d90, name)) or ""


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_what_it_takes_and_has_an_example(name: str) -> None:
    one, text = getattr(d90, name), doc_of(name)
    assert text.splitlines()[0].rstrip().endswith((".", ":")), "one line of what it is"
    assert "Example:" in text
    assert ">>> " in text
    inherited = inspect.getmro(one)[1:-1] if inspect.isclass(one) else ()
    sections = "\n".join(
        [text.split("Example:")[0], text.split(">>> ")[-1], *(base.__doc__ or "" for base in inherited)]
    )
    if inspect.isclass(one):
        named = (
            [field.name for field in dataclasses.fields(one) if not field.name.startswith("_")]
            if dataclasses.is_dataclass(one) and name != "SubspaceConfig"
            else []
        )
        assert "Attributes:" in text or "Args:" in text
    else:
        named = list(inspect.signature(inspect.unwrap(one)).parameters)
        assert "Args:" in text
        assert "Raises:" in text
    missing = [key for key in named if key not in sections]
    assert not missing, f"{name} does not describe {missing}"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, Any]:
    """What examples speak of: small models, tasks and a tune."""
    folder = tmp_path_factory.mktemp("examples")
    text_model, text_task = str(tiny_model(folder / "model")), str(tiny_task(folder / "task"))
    easy = [{"text": f"{word} {word} {word}", "label": word} for word in ("a", "b")] * 30
    (folder / "easy").mkdir()
    for name in ("train", "validation"):
        rows = "".join(json.dumps(row) + "\n" for row in easy)
        (folder / "easy" / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    run = d90.train(text_model, str(folder / "easy"), "lora:r=2,targets=all", epochs=8, batch_size=8, lr=0.03)
    run.save(folder / "tune.d90")
    run.release()
    words = [str(n) for n in range(100, 120)]
    lines = [" ".join(words[(7 * i + k) % 20] for k in range(12)) for i in range(60)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "d90": d90, "torch": torch, "model": "mlp:16-32-3", "task": blobs(), "images": f"idx:{digits}", "text_model": text_model,
        "text_task": text_task, "tune": str(folder / "tune.d90"), "text": str(folder / "text.txt"),
        "models": [str(tiny_model(folder / name)) for name in ("step-0", "step-10")],
        "language_model": str(tiny_causal(folder / "causal")), "documents": f"text:{tiny_documents(folder / 'documents')}",
    }  # fmt: skip


def run_examples(name: str, text: str, names: dict[str, Any]) -> None:
    given = {**names, "network": nn.Sequential(nn.Flatten(), nn.Linear(16, 3))}
    test = doctest.DocTestParser().get_doctest(text, given, name, None, 0)
    assert test.examples
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES if name not in REGISTERING],
)
def test_the_example_of_a_public_name_runs(
    name: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tunes").mkdir()
    run_examples(name, doc_of(name), names)


@pytest.mark.parametrize("name", REGISTERING)
def test_the_example_of_what_registers_runs_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    code = (
        "import doctest, inspect, sys, torch, d90\n"
        f"text = inspect.getdoc(d90.{name})\n"
        "given = {'d90': d90, 'network': torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))}\n"
        "test = doctest.DocTestParser().get_doctest(text, given, 'example', None, 0)\n"
        "sys.exit(doctest.DocTestRunner().run(test).failed)\n"
    )
    path = os.pathsep.join([str(Path(d90.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
