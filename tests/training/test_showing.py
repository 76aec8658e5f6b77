"""Who is told where nobody was named: bars in a terminal, lines in a notebook, nobody in a pipe or after progress=False."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import d90
from d90.training.console import Lines, Terminal
from d90.training.progress import Progress
from d90.training.showing import listener, showing, shows_progress
from tests.reference.blobs import blobs

SCRIPT = """
import d90
from tests.reference.blobs import blobs
for progress in (False, None):
    print("now", progress)
    d90.train("mlp:16-8-3", blobs(), d=20, epochs=1, progress=progress).release()
print("the end")
"""


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_terminal(code: str) -> str:
    """What a script shows in a terminal of its own."""
    leader, follower = pty.openpty()
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{root}/src:{root}", "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the script has ended
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    assert process.wait() == 0, b"".join(parts).decode()
    return b"".join(parts).decode()


def test_a_script_in_a_terminal_shows_its_trials_unless_progress_is_false() -> None:
    silent, _, shown = in_terminal(SCRIPT).partition("now None")
    assert silent.strip() == "now False"
    assert "full@d=20" in shown
    assert "the end" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0, "the cursor comes back"


STUDIES = """
import tempfile
import d90
from tests.reference.blobs import blobs
store = tempfile.mkdtemp() + "/s.sqlite"
# trials of many steps: shorter ones may end between two of the ten times a second at which bars are drawn
d90.measure("mlp:16-8-3", blobs(), rule="gain", budget=3, start=32, lr="auto", baseline_lr=0.03, epochs=20, store=store)
d90.compare("mlp:16-8-3", blobs(), ["full", "full@d=20"], rates=[0.05], costs=False, epochs=1, store=store)
d90.train("mlp:16-8-3", blobs(), d=20, epochs=1).release()
"""


def test_what_is_shown_fits_a_terminal_of_80_columns() -> None:
    """Bars, notes and the plan: no line is broken by the terminal, and the trial's name is not cut."""
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", in_terminal(STUDIES))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown)]
    assert [line for line in lines if len(line) > 80] == []
    assert any(re.match(r"search \d+:\d\d:\d\d the learning rate of full@d=32", line) for line in lines)
    assert any(re.match(r"full@d=32 seed 0, rate 0\.\d+ +[^ ]+ loss ", line) for line in lines)
    assert "structure=did,projection" not in shown


def test_nothing_is_shown_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    d90.train("mlp:16-8-3", blobs(), d=20, epochs=1).release()
    assert capfd.readouterr() == ("", "")


def test_progress_true_tells_a_pipe_in_lines(capfd: pytest.CaptureFixture[str]) -> None:
    d90.train("mlp:16-8-3", blobs(), d=20, epochs=1, progress=True).release()
    assert "full@d=20" in capfd.readouterr().err


def test_a_notebook_gets_lines_on_its_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Standard error would be red there."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    options = {"epochs": 1, "lr": 0.05, "baseline_lr": 0.01, "budget": 2, "start": 32}
    d90.measure("mlp:16-8-3", blobs(), rule="gain", store=tmp_path / "s.sqlite", **options)
    shown = capsys.readouterr()
    assert "d90 of mlp:16-8-3" in shown.out
    assert not shown.err
    d90.measure("mlp:16-8-3", blobs(), rule="gain", store=tmp_path / "s.sqlite", progress=False, **options)
    assert capsys.readouterr().out == ""


def test_a_call_within_a_call_tells_nobody_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets of bars would fight for the screen."""
    monkeypatch.setattr(sys, "stdout", Screen())
    with showing(None) as outer:
        assert isinstance(outer, Terminal)
        with showing(None) as inner:
            assert type(inner) is Progress
        with showing(outer) as given:
            assert given is outer
    with showing(None) as after:
        assert isinstance(after, Terminal)


def test_bars_are_taken_off_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Screen())
    seen: list[Progress] = []

    @shows_progress
    def fails(progress: Progress | bool | None = None) -> None:
        seen.append(listener(progress))
        seen[0].search_started("work")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    (bars,) = seen
    assert isinstance(bars, Terminal)
    assert not bars.drawn


def test_lines_go_where_they_are_sent(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().note("a")
    Lines(sys.stdout).note("b")
    shown = capsys.readouterr()
    assert "note: a" in shown.err
    assert "note: b" in shown.out
