"""Interruptions as a user meets them: a terminal of its own, real signals, and what is left on the screen."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from d90.cli.interrupt import what_is_kept

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
ENDLESS = ("--epochs", "100000", "--lr", "0.01", "--baseline-lr", "0.01", "--batch-size", "8")


class Ended(NamedTuple):
    returncode: int
    screen: bytes


def on_terminal(arguments: tuple[str, ...], cwd: Path, send: int | None, seen: bytes = b"loss") -> Ended:
    """Run a command on a terminal; once `seen` is on the screen, send it a signal (SIGINT as Ctrl-C, typed)."""
    driver, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "d90.cli", *arguments],
        stdin=terminal, stdout=terminal, stderr=terminal, cwd=cwd, close_fds=True,
        preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(terminal)
    screen, end, sent = b"", time.monotonic() + 120, False
    try:
        while time.monotonic() < end:
            try:
                part = os.read(driver, 65536)
            except OSError:  # the last process has closed the terminal
                break
            if not part:
                break
            screen += part
            if send is not None and not sent and seen in screen:
                sent = True
                if send == signal.SIGINT:
                    os.write(driver, b"\x03")
                else:
                    process.send_signal(send)
        return Ended(process.wait(timeout=30), screen)
    finally:
        process.kill()
        os.close(driver)


def _own_terminal() -> None:
    import fcntl
    import termios

    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # tests run in the background inherit ignored ones
        signal.signal(name, signal.SIG_DFL)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize(
    "name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow), pytest.param("SIGHUP", marks=pytest.mark.slow)]
)
def test_an_interrupted_measurement_says_what_is_kept_and_gives_the_cursor_back(
    name: str, digits: Path, tmp_path: Path
) -> None:
    command = ("measure", "mlp:16-32-3", f"idx:{digits}", *ENDLESS)
    ended = on_terminal(command, tmp_path, getattr(signal, name))
    assert ended.returncode == 130, ended.screen[-500:]
    assert b"finished trials are kept in 'runs/d90.sqlite', and the same command goes on from them" in ended.screen
    assert b"Traceback" not in ended.screen
    assert HIDE in ended.screen, "bars were drawn"
    assert ended.screen.rindex(SHOW) > ended.screen.rindex(HIDE)
    with closing(sqlite3.connect(tmp_path / "runs" / "d90.sqlite")) as db, db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_an_interrupted_training_says_that_nothing_was_written(digits: Path, tmp_path: Path) -> None:
    command = ("train", "mlp:16-32-3", f"idx:{digits}", "--epochs", "100000", "--lr", "0.01", "--out", "a.d90")
    ended = on_terminal(command, tmp_path, signal.SIGINT)
    assert ended.returncode == 130
    assert b"interrupted; " in ended.screen
    assert ended.screen.rindex(SHOW) > ended.screen.rindex(HIDE)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_from_its_checkpoint(digits: Path, tmp_path: Path) -> None:
    command = (
        "train",
        "mlp:16-32-3",
        f"idx:{digits}",
        "--epochs",
        "100000",
        "--lr",
        "0.01",
        "--out",
        "a.d90",
        "--checkpoint-minutes",
        "0",
    )
    ended = on_terminal(command, tmp_path, signal.SIGINT)
    assert ended.returncode == 130
    assert b"the run's state is kept in 'a.d90.checkpoint', and the same command goes on from there" in ended.screen
    assert (tmp_path / "a.d90.checkpoint").is_file()


@pytest.mark.slow
def test_an_error_gives_the_cursor_back(digits: Path, tmp_path: Path) -> None:
    command = ("train", "mlp:16-8-3", f"idx:{digits}", "--lr", "1e30", "--out", "a.d90")
    ended = on_terminal(command, tmp_path, None)
    assert ended.returncode == 1
    assert b"not finite" in ended.screen
    assert ended.screen.rindex(SHOW) > ended.screen.rindex(HIDE)


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path: Path) -> None:
    shown = f"{sys.executable} -m d90.cli methods | head -1"
    done = subprocess.run(shown, shell=True, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


@pytest.mark.parametrize("command", ["measure", "compare", "certify", "run", "gap", "train", "pretrain", "latency"])
def test_every_command_says_what_is_kept(command: str) -> None:
    stored = command in ("measure", "compare", "certify")
    words = what_is_kept(command, {"store": "s.sqlite"} if stored else {"out": "x"})
    assert words.startswith("interrupted; ")
    assert "the same command" in words
    assert ("s.sqlite" in words) is stored


def test_train_says_whether_its_state_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "a.d90"
    assert what_is_kept("train", {"out": out}) == "interrupted; nothing was written, and the same command begins anew"
    out.with_name("a.d90.checkpoint").write_bytes(b"x")
    assert what_is_kept("train", {"out": out}).endswith("a.d90.checkpoint', and the same command goes on from there")
