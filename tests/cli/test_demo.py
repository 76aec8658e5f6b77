"""`d90 demo`, which is what `make demo` runs: it ends with an answer, what it means, a file, a prediction and a next line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from d90.cli import demo
from d90.cli.main import app
from d90.results.measure import Measurement
from d90.results.result import stored_results
from d90.trials.store import Store

ROOT = Path(__file__).parents[2]


def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["demo", *words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_the_demo_answers_within_a_factor_of_three_and_its_last_lines_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ran(tmp_path, monkeypatch)
    store = Store(tmp_path / "demo" / "d90.sqlite", write=False)
    (found,) = stored_results(store, Measurement, "measure")
    store.close()
    low, high = found.interval
    assert found.status == "found"
    assert low is not None
    assert high is not None
    assert high <= 3 * low
    assert min(point.d for point in found.curve) <= low <= high <= max(point.d for point in found.curve)
    assert f"d90 = {found.d90:,} of {found.D:,} weights" in shown
    assert "is read as 7" in shown
    size = (tmp_path / "demo" / "d90.d90").stat().st_size
    assert re.search(rf"the tune: .*, [0-9,]+ numbers in {size:,} bytes", shown)
    (line,) = re.findall(r"the same again: d90 (predict .+)", shown)
    again = CliRunner().invoke(app, line.split())
    assert again.output.startswith("7\t"), again.output


def test_a_demo_that_is_cut_short_still_says_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 1.0)
    shown = ran(tmp_path, monkeypatch, "--folder", "first", "--budget", "1")
    assert "d90" in shown
    (more,) = re.findall(
        "the budget ended the search: the same command with --budget ([0-9]+) goes on from here", shown
    )
    assert int(more) > 4
    assert "page: first/d90.html" in shown
    assert shown.rstrip().endswith(
        "on your own data: d90 measure minilm path/to/data, with a column text and a column label"
    )


def test_make_demo_runs_it() -> None:
    assert "$(BIN)/d90 demo" in (ROOT / "Makefile").read_text(encoding="utf-8")
