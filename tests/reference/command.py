"""The command line, run as a test needs it."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from d90.cli.main import main

__all__ = ["Done", "run"]


class Done(NamedTuple):
    """What a command gave."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, cwd: Path | None = None, process: bool = False) -> Done:
    """A command, in this process (imports cost seconds) or in one of its own."""
    if process:
        command = [sys.executable, "-m", "d90.cli", *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
        return Done(done.returncode, done.stdout, done.stderr)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["d90", *arguments])
        patch.chdir(cwd or Path.cwd())
        with pytest.raises(SystemExit) as stop:
            main()
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())
