"""The rules of a threshold: their arithmetic, and what they refuse."""

from __future__ import annotations

import pytest

from d90.errors import InputError
from d90.search.rules import choose_rule, goal


def test_the_arithmetic() -> None:
    assert goal("paper", 0.5, 0.9).at(0.8) == pytest.approx(0.72)
    assert goal("gain", 0.5, 0.9).at(0.8) == pytest.approx(0.77)
    assert goal("gain", -0.7, 0.9).at(-0.2) == pytest.approx(-0.25), "a loss, negated"
    assert goal("margin", 0.5, 0.9, 1.0).at(0.8) == pytest.approx(0.79)


def test_left_open_the_metric_decides() -> None:
    assert choose_rule(None, "accuracy", 0.9, None) == "paper"
    assert choose_rule(None, "f1", 0.9, 2.0) == "margin"
    for metric in ("matthews", "pearson", "spearman", "loss"):
        assert choose_rule(None, metric, 0.9, None) == "gain"


@pytest.mark.parametrize(
    ("rule", "metric", "within", "words"),
    [
        ("best", "accuracy", None, "unknown rule"),
        ("paper", "loss", None, "expected rule 'gain'"),
        ("paper", "pearson", None, "expected rule 'gain'"),
        ("paper", "matthews", None, "expected rule 'gain'"),
        ("margin", "pearson", 1.0, "not counts of examples"),
        ("margin", "loss", 1.0, "not counts of examples"),
        ("margin", "accuracy", None, "points between 0 and 100"),
        ("margin", "accuracy", 0.0, "points between 0 and 100"),
        ("gain", "accuracy", 1.0, "leave one out"),
    ],
)
def test_what_does_not_fit_is_refused(rule: str, metric: str, within: float | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_rule(rule, metric, 0.9, within)
    with pytest.raises(InputError, match="fraction"):
        choose_rule("gain", metric, 0.0, None)
