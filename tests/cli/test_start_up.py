"""What a command imports before it can say that something is wrong: seconds of a newcomer's life."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LARGE = ("torch", "torch._dynamo", "transformers", "scipy")
PROBE = f"""
import contextlib, io, json, sys
from d90.cli.main import main

told = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, heard = ["d90", *arguments], io.StringIO()
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as end:
        told.append((end.code or 0, heard.getvalue(), [name for name in {LARGE} if name in sys.modules]))
print(json.dumps(told))
"""


def imported(*commands: list[str], cwd: Path) -> list[tuple[int, str, list[str]]]:
    """Of commands given one after the other in a fresh process: exit status, the error, which large packages are there."""
    given = [sys.executable, "-c", PROBE, json.dumps(commands)]
    done = subprocess.run(given, cwd=cwd, capture_output=True, text=True, check=True)
    return [(status, error, packages) for status, error, packages in json.loads(done.stdout.splitlines()[-1])]


MISTAKES = [
    (["predict", "none.d90", "a text"], "no such file"),
    (["predict", "broken.d90", "a text"], "not a sound d90 file"),
    (["evaluate", "none.d90"], "no such file"),
    (["evaluate", "broken.d90"], "not a sound d90 file"),
    (["generate", "none.d90", "a prompt"], "no such file"),
    (["merge", "none.d90", "--out", "x"], "no such file"),
    (["convert", "broken.d90", "--to", "lora", "--out", "x"], "not a sound d90 file"),
    (["push", "none.d90", "me/mine"], "no such file"),
    (["inspect", "broken.d90"], "not a sound d90 file"),
    (["analyze", "none.d90"], "no such file"),
    (["measure", "--budget", "0"], "got --budget"),
    (["measure", "lenet", "none.csv"], "no such file or folder: 'none.csv'"),
    (["train", "lenet", "glue/mprc"], "Did you mean 'mrpc'"),
    (["train", "lenet", "docstrings", "-m", "lora:rr=8"], "Did you mean 'r'"),
    (["compare", "lenet", "docstrings", "--methods", "full lorra"], "Did you mean 'lora'"),
    (["advise", "lenet", "docstring"], "Did you mean 'docstrings'"),
    (["lowdata", "lenet", "text:none.txt"], "no such file or folder"),
    (["family", "a", "b", "--tasks", "digits none.jsonl"], "no such file or folder: 'none.jsonl'"),
    (["preflight", "lenet", "-m", "full@projection=fastfod"], "Did you mean 'fastfood'"),
    (["latency", "lenet", "--methods", "full,lora"], "expected methods separated by spaces"),
    (["certify", "lenet", "none.csv"], "no such file or folder"),
    (["verify", "none.json"], "no such file"),
    (["report", "--store", "none.sqlite"], "no store at"),
    (["gap", "none.sqlite"], "no store at"),
    (["export", "none.sqlite"], "no store at"),
    (["run", "none.yaml"], "no such recipe"),
    (["measur"], "No such command"),
    (["train", "--nothing"], "No such option"),
]


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, list[str]]]:
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "broken.d90").write_bytes(b"\xff" * 20)
    return imported(["--version"], ["--help"], *(command for command, _ in MISTAKES), cwd=folder)


def test_help_and_version_import_nothing_large(mistakes: list[tuple[int, str, list[str]]]) -> None:
    assert mistakes[:2] == [(0, "", [])] * 2


@pytest.mark.parametrize("row", range(len(MISTAKES)), ids=[" ".join(command[:3]) for command, _ in MISTAKES])
def test_a_mistake_on_the_command_line_is_reported_before_torch_is_imported(
    row: int, mistakes: list[tuple[int, str, list[str]]]
) -> None:
    status, error, packages = mistakes[row + 2]
    assert (status, packages) == (2, [])
    assert MISTAKES[row][1] in error


def test_what_opens_a_tune_imports_no_scipy() -> None:
    """Intervals and searches need it: a second of a prediction that has neither."""
    code = "import sys, d90.training.loading; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_training_and_methods_import_no_compiler() -> None:
    """torch's compiler took four tenths of the time of `import d90.training.loop`."""
    code = (
        "import sys, d90.training.loop, d90.methods.applied, d90.methods.modules; print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
