"""The page, made from stores written here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from d90.errors import InputError
from d90.report import headline, page, write_report
from d90.sweep.store import Store


def point(d: int, score: float, at_least: bool = False, status: str = "finished") -> dict[str, Any]:
    return {"d": d, "seed": 0, "score": score, "at_least": at_least, "status": status, "seconds": 2.0}


def study(**changes: Any) -> dict[str, Any]:
    curve = [point(100, 0.61), point(250, 0.74), point(300, 0.82, at_least=True), point(9, 0.5, status="diverged")]
    return {
        "model": "m",
        "task": "t",
        "method": "full@structure=did,projection=fastfood,scale=tensor,layer=block,head=inside",
        "metric": "accuracy",
        "rule": "paper",
        "fraction": 0.9,
        "status": "found",
        "d90": 300,
        "interval": [250, 300],
        "D": 123_456,
        "lambdas": 0,
        "baseline": 0.9,
        "baseline_scores": [0.9],
        "baseline_method": "full",
        "majority": 0.5,
        "zero": 0.48,
        "threshold": 0.81,
        "curve": curve,
        "recipe": {"lr": 0.01},
        "definitions": {"layer": "none (did)"},
        "seconds": 12.0,
        "command": "d90 measure m t",
        **changes,
    }


def test_the_page_tells_the_answer_and_every_trial() -> None:
    text = page([study()])
    assert "d90 = 300 of 123,456 weights" in text
    assert "0.8100" in text
    assert "majority 0.5000, untrained 0.4800" in text
    for shown in ("0.6100", "0.7400", "&ge; 0.8200", "diverged", "d90 measure m t"):
        assert shown in text
    assert text.count("<svg") == 1


def test_studies_of_one_task_share_a_figure() -> None:
    said = study(method="full@structure=said,projection=fastfood,scale=tensor,layer=block,head=inside", d90=200)
    assert page([study(), said]).count("<svg") == 3
    assert page([study(), study(task="other")]).count("<svg") == 2


@pytest.mark.parametrize(
    ("status", "changes", "words"),
    [
        ("trivial", {"d90": None, "interval": [None, None], "threshold": 0.4}, "not above chance"),
        ("unreachable", {"d90": None, "interval": [4000, None]}, "highest d tried, 4,000"),
        ("floor", {"d90": 2, "interval": [None, 2]}, "at most 2"),
    ],
)
def test_no_number_is_claimed_where_there_is_none(status: str, changes: dict[str, Any], words: str) -> None:
    made = study(status=status, **changes)
    assert words in headline(made)
    assert "d90 = " not in headline(made)
    assert "<svg" in page([{**made, "curve": []}])


def test_users_strings_are_escaped() -> None:
    text = page([study(task="<script>alert(1)</script>", model="a&b")])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_nothing_is_fetched_and_equal_studies_give_equal_bytes() -> None:
    text = page([study(), study(rule="gain", threshold=0.86, d90=400)])
    assert not re.search(r"(src|href)=\"(?!#)", re.sub(r"xlink:href=\"#", 'xlink:href="#', text)), "no outside address"
    assert text == page([study(), study(rule="gain", threshold=0.86, d90=400)])
    assert len(text) < 250_000


def test_the_arrow_of_a_lower_bound_has_its_legend() -> None:
    assert "stopped once it passed" in page([study()])
    assert "stopped once it passed" not in page([study(curve=[point(100, 0.7)])])


def test_a_store_becomes_a_file_and_an_empty_one_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(InputError, match="run 'd90 measure' first"):
        write_report(store, tmp_path / "p.html")
    store.put_study("k", "measure", study())
    assert write_report(store, tmp_path / "deep" / "p.html").read_text(encoding="utf-8").startswith("<!doctype html>")
