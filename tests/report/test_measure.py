"""The page, made from stores written here: every study in this file is made up."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d90.errors import InputError
from d90.report.measure import headline, other_trials, page, write_report
from d90.report.words import names
from d90.results.measure import Measurement
from d90.training.result import TrialResult
from d90.trials.row import TrialRow
from d90.trials.store import Store

DID = "full@structure=did,projection=fastfood,scale=tensor,layer=block,head=inside"
SAID = DID.replace("did", "said")


def point(d: int, score: float, status: str = "finished", seed: int = 0) -> dict[str, Any]:
    return {"d": d, "seed": seed, "score": score, "at_least": status == "passed", "status": status, "seconds": 2.0}


CURVE = [
    point(100, 0.6123),
    point(100, 0.6321, seed=1),
    point(250, 0.7412),
    point(300, 0.8234, "passed"),
    point(9, 0.5017, "diverged"),
]


def study(**changes: Any) -> Measurement:
    """As an earlier version stored it, unless `changes` say more."""
    body = {
        "model": "m",
        "task": "t",
        "method": DID,
        "metric": "accuracy",
        "rule": "paper",
        "fraction": 0.9,
        "status": "found",
        "d90": 300,
        "interval": [250, 300],
        "D": 123_456,
        "lambdas": 7,
        "baseline": 0.9,
        "baseline_scores": [0.89, 0.91],
        "baseline_method": "full",
        "majority": 0.5,
        "zero": 0.48,
        "threshold": 0.81,
        "curve": CURVE,
        "recipe": {"model": "m", "task": "t", "lr": 0.01},
        "definitions": {"layer": "none (did)", "notes": ["a note"]},
        "seconds": 12.0,
        "command": "d90 measure m t",
        **changes,
    }
    return Measurement.from_dict(body)


def add(
    store: Store, key: str, method: str, d: int | None, score: float, study: str | None = None, seed: int = 0
) -> None:
    recipe = {"model": "m", "task": "t", "lr": 0.01, "method": method, "seed": seed}
    store.add(TrialRow(key, recipe, TrialResult(score), d=d, seed=seed), study)


TRIVIAL = {"status": "trivial", "d90": None, "interval": [None, None], "threshold": 0.4, "curve": []}
UNREACHABLE: dict[str, Any] = {
    "status": "unreachable",
    "d90": None,
    "interval": [4000, None],
    "curve": [point(4000, 0.7)],
}


def test_the_page_tells_the_answer_and_every_trial() -> None:
    text = page([study()])
    assert "d90 = 300 of 123,456 weights" in text
    assert "81.00 %: 90 % of full, paper rule" in text
    assert "majority class 50.00 %, untrained model 48.00 %" in text
    assert "d = 250 falls short, d = 300 reaches it" in text
    for shown in (
        "61.23 %",
        "63.21 %",
        "74.12 %",
        "≥ 82.34 %",
        "50.17 %",
        "diverged",
        "a note",
        "<pre>d90 measure m t",
    ):
        assert shown in text
    shown = f"d = 100, seed 1: 63.21 %, finished, 2 s\n{DID}, lr 0.01</title>"
    assert shown in text, "a dot tells the pointer which trial it is, and its recipe"
    assert text.count("</title>") == 1 + len(CURVE)
    assert text.count("<svg") == 1
    assert "The command" not in page([study(command="")])


def test_the_figure_shows_what_kind_of_score_a_trial_has() -> None:
    text = page([study()])
    for kind in ("trial", "bound", "diverged"):
        assert f'id="s1-dots0{kind}"' in text
    bound = text.split('id="s1-dots0bound"')[1].split("</g>")[0]
    assert "d = 300, seed 0: at least 82.34 %, passed" in bound
    assert "at least: stopped once it passed" in text
    assert "at least: stopped once it passed" not in page([study(curve=[point(100, 0.7)])])
    for line in ("full fine-tuning: 90.00 %", "90 % of full, paper rule: 81.00 %", "chance, majority class: 50.00 %"):
        assert f">{line}</text>" in text
    assert "d90 = 300, bracket (250, 300]" in text


def test_numbers_are_of_the_metric() -> None:
    """A correlation is no percentage, and keeps its digits in the figure too."""
    text = page([study(metric="matthews", threshold=0.45678)])
    assert "0.4568 matthews" in text
    assert "paper rule: 0.4568</text>" in text


def test_a_loss_is_reported_as_a_loss() -> None:
    """Scores are minus the loss; a reader of "loss" sees the loss, and bounds turn round."""
    shown = study(
        metric="loss", rule="gain", baseline=-3.0, baseline_scores=[-3.0], majority=-8.0, zero=-5.0, threshold=-3.2,
        coverage=0.9, confirmed=True,
        curve=[point(100, -3.6), point(300, -3.1, "passed"), {**point(10, -4.5, "hopeless"), "below": True}],
        band=[(100, -3.6, -3.7, -3.5), (300, -3.1, -3.2, -3.0)],
        variance={"deviation": 0.05, "projection": 0.5, "interval": [0.1, 0.9], "trials": 8},
    )  # fmt: skip
    text = page([shown])
    assert "reaches 3.2000 loss, chance plus 90 % of what full fine-tuning (3.0000) gains over it" in headline(shown)
    assert "≤ 3.1000" in text
    assert "d = 300, seed 0: at most 3.1000, passed" in text
    assert "at most: stopped once it passed" in text
    assert "given up: would have stayed above" in text
    assert "constant guess 8.0000, untrained model 5.0000" in text
    assert "standard deviation 0.0500" in text
    assert not re.search(r"-[0-9]\.[0-9]{4}\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert "not below chance (5.0000, untrained model)" in headline(replace(shown, status="trivial", threshold=-5.5))


def test_studies_of_one_task_share_a_figure() -> None:
    said = study(method=SAID, d90=200)
    text = page([study(), said])
    assert text.count("<svg") == 3
    assert 'id="o1-dots1trial"' in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "an id twice on a page lets one figure draw with another's marker"
    assert page([study(), study(task="other")]).count("<svg") == 2
    gain = study(rule="gain", threshold=0.86, d90=400)
    assert 'id="o1-dots1trial"' not in page([study(), gain]), "one method keeps one colour"


def test_studies_are_distinguished() -> None:
    assert names([study(), study(method=SAID)]) == ["full DID fastfood", "full SAID fastfood"]
    assert names([study(), study(rule="gain")])[1] == "full DID fastfood, gain rule"
    assert names([study(), study(recipe={"lr": 0.1})])[0].endswith("lr 0.01, model m, task t")
    assert len(set(names([study(), study(), study()]))) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (TRIVIAL, "not above chance"),
        ({**TRIVIAL, "baseline": 0.45}, "itself does no better"),
        (UNREACHABLE, "no d up to 4,000"),
        ({**UNREACHABLE, "sure": None, "coverage": 0.9}, "d90 is above 4,000"),
        (
            {"status": "unknown", "d90": None, "interval": [None, None], "curve": [], "sure": None},
            "not bounded by these trials",
        ),
        (
            {"status": "floor", "d90": 2, "interval": [None, 2], "sure": 2, "coverage": 0.9},
            "at most 2 of 123,456 weights, not bounded below",
        ),
        ({**UNREACHABLE, "curve": [*UNREACHABLE["curve"], point(900, 0.82)]}, "d = 900 reached 81.00 %"),
        ({"status": "floor", "d90": 2, "interval": [None, 2]}, "at most 2"),
    ],
)
def test_no_number_is_claimed_where_there_is_none(changes: dict[str, Any], words: str) -> None:
    made = study(**changes)
    text = page([made])
    assert words in headline(made)
    assert "d90 = " not in text
    if not made.curve:
        assert "<svg" not in text
        assert "nothing was trained in a subspace" in text
    elif made.d90 is None:
        assert {"unknown": "not bounded by these trials", "unreachable": "above 4,000"}.get(
            made.status if made.open_ends else "", f"none ({made.status})"
        ) in text
    else:
        assert "d90 at most 2</text>" in text


@pytest.mark.parametrize(
    ("ends", "words", "arrows"),
    [
        ((250, 340), "90 % interval 250 to 340", []),
        ((None, 340), "90 % interval up to 340, not bounded below by these trials", ["openbelow"]),
        ((250, None), "90 % interval from 250, not bounded above by these trials", ["openabove"]),
    ],
)
def test_an_open_end_is_said_and_drawn_as_an_arrow(
    ends: tuple[int | None, int | None], words: str, arrows: list[str]
) -> None:
    shown = study(interval=list(ends), coverage=0.9, sure=330, definitions={"notes": [], "validation": 300})
    text = page([shown])
    assert words in headline(shown)
    assert words in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert re.findall(r'id="s1-(open\w+)"', text) == arrows
    assert "this validation split of 300 examples" in text
    above = page([study(**UNREACHABLE, coverage=0.9, sure=None)])
    assert re.findall(r'id="s1-(open\w+)"', above) == ["openabove"]


def test_training_at_d90_is_reported_with_its_mean_beside_the_threshold() -> None:
    """ "Confirmed" was a median with two seeds trained: in three of six cases their mean lay under the threshold."""
    curve = [point(240, 0.8921), point(240, 0.8939, seed=1), point(240, 0.91, "passed", seed=2), point(100, 0.6)]
    shown = study(d90=240, threshold=0.9, baseline=1.0, curve=curve, coverage=0.9, confirmed=True, interval=[228, 266])
    text = page([shown])
    assert "trained there with 2 seeds: mean 89.30 %, threshold 90.00 %" in text
    assert "confirmed" not in text
    twice = tuple(replace(one, p_seed=0) for one in shown.curve)
    assert "with one seed of P in 2 trials: mean 89.30 %" in page([replace(shown, curve=twice)])
    assert "not trained to the end there" in page([study(coverage=0.9, interval=[228, 320])])


def test_a_trial_whose_training_failed_is_marked_in_the_table() -> None:
    text = page([study(coverage=0.9, sure=None, failed=[[250, 0, 0]])])
    assert text.count("training most likely failed") == 1


def test_users_strings_are_escaped_and_no_mathematics() -> None:
    odd = "<script>alert(1)</script> $x_{ 数据"
    text = page([study(task=odd, model="a&b", baseline_method=odd), study(task=odd, model="a&b", method=SAID)])
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x_{ 数据" in text


def test_scores_that_are_not_finite_are_reported_but_not_drawn() -> None:
    text = page([study(curve=[*CURVE, point(500, float("nan"), "diverged")])])
    assert "nan %" in text
    assert text.count("</title>") == 1 + len(CURVE)


def test_nothing_is_fetched_and_equal_studies_give_equal_bytes() -> None:
    import matplotlib

    studies = [study(), study(rule="gain", threshold=0.86, d90=400)]
    text = page(studies)
    assert not re.search(r'(src|href)="(?!#)|@import|url\((?!#)|https?:', text), "no outside address"
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "lines.linewidth": 9}):
        mine = dict(matplotlib.rcParams)
        assert page(studies) == text, "the user's settings change nothing"
        assert dict(matplotlib.rcParams) == mine
    assert dict(matplotlib.rcParams) == before
    assert len(text) < 100_000


def test_a_measurements_own_trials_are_none_of_the_others(tmp_path: Path) -> None:
    """By the keys that a study notes: its method may be written otherwise, and its rate be found by trials of other rates."""
    store = Store(tmp_path / "s.sqlite")
    store.put_study("study", "measure", study().to_dict())
    add(store, "a", "full@d=100,anything=else", 100, 0.6123, "study")
    add(store, "b", "full", None, 0.89, "study")
    add(store, "reading", DID.replace("@", "@d=100,"), 100, 0.4, "study")
    assert other_trials(store) == []
    # there when it began: it learned from the one on its curve, and from the other of the noise alone
    add(store, "lent", DID.replace("@", "@d=250,"), 250, 0.7412)
    add(store, "noise", "bitfit", None, 0.8)
    add(store, "alike", DID.replace("@", "@d=77,"), 77, 0.7777)
    store.begin("study", ["lent", "noise"])
    assert [row.key for row in other_trials(store)] == ["noise", "alike"]
    text = write_report(store, tmp_path / "p.html").read_text()
    assert "0.7777" in text
    assert "2 that no measurement above used" in text


def test_trials_of_a_study_that_noted_none_are_known_by_their_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    store.put_study("study", "measure", study().to_dict())
    add(store, "a", DID.replace("@", "@d=100,"), 100, 0.6123)
    add(store, "b", "full", None, 0.89)
    add(store, "c", DID.replace("@", "@d=77,"), 77, 0.7777)
    assert [row.key for row in other_trials(store)] == ["c"]


def test_a_trial_that_stopped_below_todays_threshold_is_open(tmp_path: Path) -> None:
    """Threshold 0.81: one that stopped at 0.78 may have reached it had it gone on; one given up for 0.85 too."""
    stopped = {**point(300, 0.7901, "passed"), "stop_at": 0.78}
    given_up = {**point(320, 0.7802, "hopeless"), "below": True, "stop_at": 0.85}
    short = {**point(200, 0.7003, "hopeless"), "below": True, "stop_at": 0.81}
    found = study(
        curve=[stopped, given_up, short, point(310, 0.8404, "passed"), point(5, 0.9, "diverged"), point(50, 0.6)]
    )
    verdicts = {one.d: found.reached(one) for one in found.curve}
    assert verdicts == {300: None, 320: None, 200: False, 310: True, 5: None, 50: False}
    assert found.passed == [310]
    rows = page([found]).split("<h3>Trials</h3>")[1]
    assert re.search(r"79\.01 %</td>\s*<td>not known</td><td>passed, stopped at 78\.00 %", rows)
    assert re.search(r"78\.02 %</td>\s*<td>not known</td><td>hopeless", rows)
    assert re.search(r"70\.03 %</td>\s*<td>not reached</td><td>hopeless", rows)
    assert re.search(r"90\.00 %</td>\s*<td>not known</td><td>diverged", rows)


def test_a_store_becomes_a_file_and_an_empty_one_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(InputError, match=r"no measurement in .*s\.sqlite'; run 'd90 measure' first"):
        write_report(store, tmp_path / "p.html")
    store.put_study("k", "measure", study(task="bad\udc80name").to_dict())
    made = write_report(store, tmp_path / "deep" / "p.html").read_bytes()
    assert made.startswith(b"<!doctype html>")
    assert made == write_report(store, tmp_path / "again.html").read_bytes()
    store.close()
