"""The time that a search will take, from its first steps."""

from __future__ import annotations

import time

import pytest

from d90.training.console import Lines
from d90.training.estimate import Estimate, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_plan_is_reported_once_after_twenty_steps(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.search_expected(Estimate(240, 120, (6, 10)))
    clock[0] = 100.0  # the model was loaded
    lines.search_planned("baseline first")
    lines.trial_started("full seed 0, rate 0.0001", 240)
    for step in (10, 20, 30):
        clock[0] += 10.0
        lines.trial_step(step, 1.0)
    lines.search_planned("d = 4,096")
    said = capsys.readouterr().err.splitlines()
    assert "left" not in said[0], "nothing is known yet"
    assert [line.split("] ")[1] for line in said if "plan" in line] == [
        "plan: baseline 4 min, 6 to 10 trials of 2 min; 16 min to 24 min in all"
    ]
    assert said[-1].endswith("d = 4,096; about 22 min left"), "24 minutes, less 130 seconds"


def test_finding_the_rates_is_part_of_the_plan(clock: list[float]) -> None:
    plan = Estimate(60, 60, (3, 7), (4, 8))
    plan.run_started()
    clock[0] = 20.0
    assert plan.left is None
    assert plan.stepped(10) is None
    assert (
        plan.stepped(20)
        == "plan: finding the rates 4 to 8 runs, baseline 60 s, 3 to 7 trials of 60 s; 8 min to 16 min in all"
    )
    assert plan.stepped(30) is None
    clock[0] = 10_000.0
    assert plan.left == "60 s", "one trial, where the plan was exceeded"


def test_durations_in_words() -> None:
    assert [duration(seconds) for seconds in (0.2, 89, 91, 5300, 5500, 36_000)] == [
        "1 s",
        "89 s",
        "2 min",
        "88 min",
        "1.5 h",
        "10.0 h",
    ]


def test_a_run_that_took_longer_is_learned_from(clock: list[float]) -> None:
    """On a machine that grew busy "at most 78 s" stood where 220 were needed: the first twenty steps do not hold for all."""
    plan = Estimate(100, 100, (1, 2))
    plan.run_started()
    clock[0] = 20.0
    assert plan.stepped(20) == "plan: baseline 2 min, 1 to 2 trials of 2 min; 3 min to 5 min in all"
    clock[0] = 400.0
    plan.stepped(100)
    plan.run_started()
    assert plan.left == "13 min", "four seconds a step: 1,200, of which 400 are over"
