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
