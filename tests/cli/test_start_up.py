"""What a command imports before it can say that something is wrong: seconds of a newcomer's life."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_what_opens_a_tune_imports_no_scipy() -> None:
    """Intervals and searches need it: a second of a prediction that has neither."""
    code = "import sys, d90.training.loading; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_training_and_methods_import_no_compiler(tmp_path: Path) -> None:
    """torch's compiler took four tenths of the time of `import d90.training.loop`."""
    status, error, packages = imported("train", "lenet", "docstrings", "-m", "lora:rr=8", cwd=tmp_path)
    assert status == 2
    assert "Did you mean 'r'" in error
    assert "torch._dynamo" not in packages
