"""Jobs in local processes: results, events, errors; workers that die, drivers that die, interruptions; one turn at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from d90.errors import InputError, RunFailed
from d90.training.console import Lines, Terminal, close_bars
from d90.trials.executor import Executor, Job
from d90.trials.local import Local
from tests.trials.work import job

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds on a busy machine


@pytest.fixture
def local() -> Iterator[Local]:
    executor = Local(2)
    yield executor
    executor.close()


def run(executor: Executor, jobs: list[Job]) -> tuple[dict[int, Any], list[tuple[int, str, list[Any]]]]:
    """Results by place, and (place, name, arguments) of what was told."""
    results: dict[int, Any] = {}
    progress: list[tuple[int, str, list[Any]]] = []

    def ended(index: int, _number: int, result: dict[str, Any]) -> None:
        assert threading.current_thread() is mine
        results[index] = result

    mine = threading.current_thread()
    executor.run(jobs, lambda index, _number, name, what: progress.append((index, name, what)), ended)
    return results, progress


def until(condition: Any) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie waits for its parent alone


def test_results_and_what_was_reported_come_back_in_their_places(local: Local) -> None:
    results, progress = run(local, [job("square", n=n) for n in range(3)])
    assert {place: result["square"] for place, result in results.items()} == {0: 0, 1: 1, 2: 4}
    assert {result["threads"] for result in results.values()} == {str(local.threads)}
    for place in range(3):
        mine = [(name, what) for at, name, what in progress if at == place]
        scored = ("trial_scored", [1, float("inf"), 0.1 + 0.2])
        assert mine == [("trial_started", [f"square {place}", 1]), scored], "numbers come back bit for bit"


def test_an_error_keeps_its_class_and_those_beside_it_end(local: Local, tmp_path: Path) -> None:
    ended: list[int] = []
    jobs = [job("refuse", n=1), job("sleep", folder=str(tmp_path), seconds=0.5)]
    with pytest.raises(InputError, match="got 1, expected less"):
        local.run(jobs, lambda *_: None, lambda index, *_: ended.append(index))
    assert ended == [1]
    with pytest.raises(RunFailed, match="ZeroDivisionError: a mistake of ours"):
        run(local, [job("wrong")])
    assert run(local, [job("square", n=5)])[0][0]["square"] == 25, "the executor goes on"


def test_a_worker_that_dies_is_reported_and_tried_once_more(local: Local, tmp_path: Path) -> None:
    results, progress = run(local, [job("die", folder=str(tmp_path), times=1)])
    assert results == {0: {"tried": 2}}
    assert progress == [(0, "note", ["die: its worker died (signal 9); it runs again"])]
    for mark in tmp_path.iterdir():
        mark.unlink()
    with pytest.raises(RunFailed, match=r"died 2 times \(signal 9\)"):
        run(local, [job("die", folder=str(tmp_path), times=9)])
    assert len(list(tmp_path.iterdir())) == 2


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
from d90.trials.local import Local
from tests.trials.work import job
Local(2).run([job("sleep", folder=sys.argv[1], seconds=1000)] * 3, print, print)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_driver_however_it_goes(tmp_path: Path, how: signal.Signals) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        assert until(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [int(mark.name) for mark in tmp_path.iterdir()]
        assert all(map(lives, workers))
        driver.send_signal(how)
        _, said = driver.communicate(timeout=PATIENCE)
        assert until(lambda: not any(map(lives, workers))), "a worker outlived its driver"
        assert len(list(tmp_path.iterdir())) == 2, "the third job was begun"
        assert (b"KeyboardInterrupt" in said) == (how == signal.SIGINT)
    finally:
        driver.kill()
        driver.communicate()


def test_calls_side_by_side_take_turns_and_wait_at_the_same_time(local: Local, tmp_path: Path) -> None:
    inside: list[int] = []
    most = 0

    def call(n: int) -> int:
        nonlocal most
        found = 0
        for round_ in range(2):
            inside.append(n)
            time.sleep(0.02)
            assert inside == [n], "two threads at once"
            inside.remove(n)
            results, _ = run(local, [job("square", n=n + round_)])
            most = max(most, len(local.live))
            found += results[0]["square"]
        return found

    def nested(n: int) -> list[int]:
        return local.together([lambda: call(n), lambda: call(n + 10)])

    found = local.together([lambda: nested(1), lambda: nested(2), lambda: nested(3)])
    assert found == [[n * n + (n + 1) ** 2, (n + 10) ** 2 + (n + 11) ** 2] for n in (1, 2, 3)]


def test_an_error_in_one_call_ends_the_others_once_their_trials_have_ended(local: Local, tmp_path: Path) -> None:
    ended: list[int] = []

    def long() -> None:
        for n in range(50):
            slept = [job("sleep", folder=str(tmp_path), seconds=0.2)]
            local.run(slept, lambda *_: None, lambda *_, n=n: ended.append(n))

    def short() -> None:
        run(local, [job("square", n=1)])
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        local.together([long, short])
    assert len(ended) == len(list(tmp_path.iterdir())) < 50, "a trial under way was lost"
    assert not local.live
    assert run(local, [job("square", n=2)])[0][0]["square"] == 4


def test_what_several_trials_tell_is_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    lines, bars = Lines(), Terminal()
    for progress in (lines, bars):
        for number in (1, 2):
            progress.trial_turned(number)
            progress.trial_started(f"trial {number}", 10)
    assert sorted(bars.trials) == [1, 2]
    for progress in (lines, bars):
        progress.trial_turned(0)
        progress.trial_ended("trial 3", "0.5, stored")
        progress.trial_turned(1)
        progress.trial_scored(5, 0.25, 1.0)
        progress.trial_scored(6, -1.5, 1.5)
        progress.trial_ended("trial 1", "0.25")
    assert list(bars.trials) == [2], "each takes its own bar away"
    bars.close()
    capture = capsys.readouterr()
    bars.close()
    close_bars()
    assert capsys.readouterr().out == "", "bars that are off the screen print nothing more"
    said = capture.err
    assert "trial 1, step 5: score 0.2500, loss 1.0000" in said
    assert "trial 1, step 6: loss 1.5000" in said, "where the loss is the metric it is told once"


def test_impossible_numbers_of_trials_are_refused() -> None:
    with pytest.raises(InputError, match="got 0 trials at once"):
        Local(0)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from d90.trials.ray import Cluster

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'd90\[ray\]'"):
        Cluster()
    assert "RAY_USAGE_STATS_ENABLED" in os.environ
