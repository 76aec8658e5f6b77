"""d90.Study: ask and tell over an objective of the user's own."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import d90
from d90.errors import InputError
from d90.studies.study import Trial

TRUE = 60  # where the rise below reaches nine tenths


def rise(trial: Trial) -> float:
    """A score between 20 and 120 that reaches 110 at d = 60, with a little noise from the seeds."""
    noise = 0.8 * math.sin(7.3 * trial.projection_seed + 1.7 * trial.training_seed)
    if trial.d is None:
        return 120.0 + noise
    slope = math.log(9) / math.log(4)  # from a half at d = 15 to nine tenths at d = 60
    return 20.0 + 100.0 / (1 + (15 / trial.d) ** slope) + noise


def study(folder: Path, **options: object) -> d90.Study:
    given: dict[str, object] = {"D": 5_000, "chance": 20.0, "start": 200, "noise": 1.0, "store": folder / "s.sqlite"}
    return d90.Study("rise", **{**given, **options})  # type: ignore[arg-type]


def test_it_finds_where_the_objective_crosses(tmp_path: Path) -> None:
    found = study(tmp_path)
    while (trial := found.ask()) is not None:
        found.tell(trial, rise(trial))
    low, high = found.interval
    assert low is not None
    assert high is not None
    assert low <= TRUE <= high < 4 * low
    assert found.result.spent <= 9
    assert "rise" in repr(found)


def test_minimizing_the_negated_objective_asks_and_answers_alike(tmp_path: Path) -> None:
    up = study(tmp_path / "up").optimize(rise)
    down = study(tmp_path / "down", direction="minimize", chance=-20.0).optimize(lambda trial: -rise(trial))
    assert (up.d90, up.interval) == (down.d90, down.interval)


def test_killed_and_started_again_it_goes_on_as_it_would_have(tmp_path: Path) -> None:
    whole = study(tmp_path / "whole").optimize(rise)
    part = study(tmp_path / "parts")
    while (trial := part.ask()) is not None:
        part.tell(trial, rise(trial))
        part.ask()  # open when the process dies: asked again
        part = study(tmp_path / "parts")
    assert (part.d90, part.interval) == (whole.d90, whole.interval)


def test_several_trials_are_open_at_once(tmp_path: Path) -> None:
    found = study(tmp_path)
    base = found.ask()
    assert base is not None
    assert base.d is None
    assert found.ask() is None, "no d can be planned before the baseline is known"
    found.tell(base, 120.0)
    one, two = found.ask(), found.ask()
    assert one is not None
    assert two is not None
    assert one.training_seed != two.training_seed
    found.tell(two, rise(two))
    found.tell(one, rise(one))
    with pytest.raises(InputError, match="not open"):
        found.tell(one, 1.0)
    assert study(tmp_path / "pool").optimize(rise, jobs=3).d90 is not None


def test_a_failed_training_says_nothing_and_is_paid_for(tmp_path: Path) -> None:
    found = study(tmp_path)
    failed = 0
    while (trial := found.ask()) is not None:
        if trial.d is not None and failed < 2:
            failed += 1
            found.tell(trial, failed=True)
        else:
            found.tell(trial, rise(trial))
    low, high = found.interval
    assert (low or 0) <= TRUE <= (high or 10**9)
    assert [point.status for point in found.measurement.curve].count("diverged") == 2
    again = study(tmp_path)
    assert again.interval == found.interval


def test_a_trial_may_stop_at_the_threshold(tmp_path: Path) -> None:
    found = study(tmp_path)
    stopped = 0
    while (trial := found.ask()) is not None:
        score = rise(trial)
        if trial.stop_at is not None and score >= trial.stop_at:
            stopped += 1
            found.tell(trial, trial.stop_at, at_least=True, cost=0.5)
        else:
            found.tell(trial, score)
    assert found.interval[1] is None or found.interval[1] >= TRUE
    rows = found.store.trials()
    assert [row.status for row in rows].count("passed") == stopped
    assert {row.result.steps for row in rows if row.status == "passed"} <= {0.5}, (
        "a part of a baseline is no whole step"
    )
    assert study(tmp_path).result.spent == found.result.spent, "as it is read again"


def test_its_page_and_figure_show_it(tmp_path: Path) -> None:
    found = study(tmp_path).optimize(rise)
    page = found.page(tmp_path / "page.html").read_text()
    assert "rise on objective" in page
    assert f"{found.d90}" in page
    assert found.plot().startswith("<svg")
    assert found.plot().save(tmp_path / "figure.svg").read_text() == found.plot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "unknown direction 'up'"),
        ({"rule": "margin"}, "unknown rule 'margin'"),
        ({"rule": "paper", "direction": "minimize"}, "expected 'gain'"),
        ({"fraction": 0}, "0 < fraction <= 1"),
        ({"D": 0}, "expected at least 1"),
        ({"low": 9000}, re.escape("expected 1 <= low <= high")),
    ],
)
def test_a_wrong_question_is_said(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        study(tmp_path, **options)


def test_a_wrong_answer_is_said(tmp_path: Path) -> None:
    found = study(tmp_path)
    base = found.ask()
    assert base is not None
    for given, message in [
        ({"score": math.nan}, "expected a finite number"),
        ({}, "expected a finite number"),
        ({"failed": True}, "a baseline that failed"),
        ({"score": 1.0, "at_least": True}, "must run to its end"),
    ]:
        with pytest.raises(InputError, match=message):
            found.tell(base, **given)  # type: ignore[arg-type]
    found.tell(base, 120.0)
    with pytest.raises(InputError, match="got jobs=0"):
        found.optimize(rise, jobs=0)
