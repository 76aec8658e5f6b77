"""What a command imports before it can say that something is wrong: seconds of a newcomer's life."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference.command import run
from tests.reference.families import save_family

PROBE = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps([n for n in ("torch", "torch._dynamo", "transformers", "scipy") if n in sys.modules])))
sys.argv = ["d90", *sys.argv[1:]]
from d90.cli.main import main
main()
"""


def imported(*arguments: str, cwd: Path) -> tuple[int, str, list[str]]:
    """Exit status, the error's text, and which of the large packages were imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["predict", "none.d90", "a text"], "no such file"),
        (["evaluate", "none.d90"], "no such file"),
        (["merge", "none.d90", "--out", "x"], "no such file"),
        (["inspect", "none.d90"], "no such file"),
        (["measure", "--budget", "0"], "got --budget"),
        (["measur"], "No such command"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_told_before_torch_is_imported(
    command: list[str], words: str, tmp_path: Path
) -> None:
    status, error, packages = imported(*command, cwd=tmp_path)
    assert (status, packages) == (2, [])
    assert words in error


def test_a_prediction_imports_no_scipy(tmp_path: Path) -> None:
    """Intervals and searches need it: a second of a prediction that has neither. torch's compiler comes with transformers' own models."""
    base = save_family("bert", tmp_path / "base")
    rows = "".join(json.dumps({"text": "a b c"[: 1 + i % 5], "label": i % 2}) + "\n" for i in range(40))
    (tmp_path / "task.jsonl").write_text(rows)
    options = ("--epochs", "0.1", "--evaluations", "1", "--precision", "fp32", "--out", "a.d90")
    done = run("train", str(base), "task.jsonl", "-m", "full@d=20", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status, error, packages = imported("predict", "a.d90", "a b", cwd=tmp_path)
    assert status == 0, error
    assert "scipy" not in packages


def test_training_and_methods_import_no_compiler(tmp_path: Path) -> None:
    """torch's compiler took four tenths of the time of `import d90.training.loop`."""
    status, error, packages = imported("train", "lenet", "docstrings", "-m", "lora:rr=8", cwd=tmp_path)
    assert status == 2
    assert "Did you mean 'r'" in error
    assert "torch._dynamo" not in packages
