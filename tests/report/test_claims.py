"""Claims: what is said of a study follows from its numbers, whichever way they fall."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from d90.report.claims import amplified, analysis_claims, lowdata_claims, series_claims
from d90.results.series import Series
from d90.results.weight_change import Likeness
from tests.reference.results import (
    made_analysis,
    made_cell,
    made_comparison,
    made_likeness,
    made_low_data,
    made_row,
    made_series,
)


def series(*cells: tuple[int, int | None, str], kind: str = "trajectory") -> Series:
    """An interval reaches from half of d90 to twice it, or begins at 4,000 where there is none."""
    made = [made_cell(x, d90, status, **({} if d90 else {"interval": (4000, None)})) for x, d90, status in cells]
    return made_series(*made, kind=kind)


@pytest.mark.parametrize(
    ("d90s", "verdict"),
    [
        ([8000, 4000, 2000, 1000], "holds"),
        ([8000, 2000, 4000, 1000], "holds"),
        ([1000, 2000, 4000, 8000], "does not hold"),
        ([8000, 9000, 7000, 8500], "points the other way, not shown"),
        ([4000, 8000, 2000, 3000], "points that way, not shown"),
        ([9000, 16_000, 2000, 3000], "holds in part"),
        ([1000, 1000], "not to be told"),
        ([1000], "not to be told"),
    ],
)
def test_falling_is_counted_over_pairs(d90s: list[int], verdict: str) -> None:
    ((words, found),) = series_claims(series(*((step, d, "found") for step, d in enumerate(d90s))))
    assert found == verdict
    assert words.startswith("t, the last model's target")


def test_a_target_out_of_reach_is_above_every_d_and_a_failed_model_is_left_out() -> None:
    cells = [
        (0, None, "unreachable"),
        (10, None, "failed"),
        (20, 500, "found"),
        (40, 100, "found"),
        (5, None, "trivial"),
    ]
    ((words, verdict),) = series_claims(series(*cells, kind="family"))
    assert verdict == "holds"
    assert "from above 4,000 at 0 to 100 at 40" in words
    assert "with the number of weights in 3 of 3 pairs; the intervals of 3 of them are apart" in words


def test_intervals_that_overlap_are_counted() -> None:
    ((words, verdict),) = series_claims(series((0, 1000, "found"), (1, 900, "found"), (2, 200, "found")))
    assert verdict == "holds"
    assert "3 of 3 pairs; the intervals of 2 of them are apart" in words


def test_lowdata_compares_with_full() -> None:
    few = made_comparison(full=[0.6], lora_8=[0.65], preembed=[0.5], prelayer=[0.55])
    many = made_comparison(full=[0.9], lora_8=[0.8], prelayer=[0.95])
    study = made_low_data([100, 1000], few, many)
    hints, against = "points that way, not shown", "points the other way, not shown"  # one seed, and no interval
    assert [verdict for _, verdict in lowdata_claims(study)] == [hints, hints, against, against]
    assert lowdata_claims(made_low_data([10], made_comparison(bitfit=[0.5]))) == []
    losses = made_comparison("loss", full=[-3.2], lora_8=[-3.1])
    ((words, verdict),) = lowdata_claims(made_low_data([10], losses))
    assert (verdict, words) == (
        hints,
        "n = 10: best lora:r=8 (3.1000), full 3.2000, LoRA 3.1000: LoRA is no worse than full",
    )


def test_a_claim_holds_only_where_intervals_are_apart() -> None:
    """ "holds" beside intervals that overlap was said of noise."""
    ((words, verdict),) = series_claims(series((0, 1000, "found"), (1, 900, "found"), (2, 800, "found")))
    assert "3 of 3 pairs; the intervals of 0 of them are apart" in words
    assert verdict == "points that way, not shown"
    scores = {"full": 0.60, "lora_8": 0.70, "preembed": 0.50}
    made = made_comparison(**{name: [score] for name, score in scores.items()})
    for half, verdict in ((0.03, "holds"), (0.2, "points that way, not shown")):
        entries = tuple(replace(one, low=one.mean - half, high=one.mean + half) for one in made.entries)
        claims = lowdata_claims(made_low_data([10], replace(made, entries=entries)))
        assert [found for _, found in claims] == [verdict, verdict]


@pytest.mark.parametrize(
    ("method", "other", "judged"),
    [
        ("lora:r=8", "lora:r=64", True),
        ("peft LORA", "lora:r=8", True),
        ("full", "lora:r=8", False),
        ("lora:r=8@d=100", "lora:r=8", False),
        ("lora:r=4+preembed:prefix=8", "lora:r=8", False),
        ("full@d=200", "full@d=400", False),
        ("peft IA3", "lora:r=8", False),
    ],
)
def test_a_claim_about_lora_is_judged_of_lora_alone(method: str, other: str, judged: bool) -> None:
    found = made_analysis([made_row("q", (4, 22.0))], [made_row("q", (64, 2.0))], method=method, other_method=other)
    assert bool(analysis_claims(found)) is judged


def test_amplification_is_compared_at_each_tunes_own_rank() -> None:
    rows, others = (
        [made_row("q", (1, 90.0), (4, 20.0)), made_row("q", (1, 90.0), (4, 24.0))],
        [made_row("q", (4, 99.0), (64, 2.0))],
    )
    assert amplified(rows) == {"q": (4, 22.0)}
    ((words, verdict),) = analysis_claims(made_analysis(rows, others))
    assert verdict == "holds"
    assert "22 at r = 4, 2 at r = 64" in words
    ((_, verdict),) = analysis_claims(made_analysis(others, [made_row("q", (4, 1.0))]))
    assert verdict == "does not hold"
    assert analysis_claims(made_analysis(rows)) == []
    assert amplified([made_row("q", (1, 1.0), own=0.0)]) == {"q": (1, math.inf)}


def test_phi_is_counted_over_matrices() -> None:
    def like(top: float) -> Likeness:
        return made_likeness("v", [[top, 0.1], [0.1, 0.3]], [[0.01, 0.02], [0.02, 0.02]])

    for tops, verdict in (((0.9, 0.6), "holds"), ((0.9, 0.6, 0.2), "holds in part"), ((0.9, 0.2), "does not hold")):
        ((words, found),) = analysis_claims(made_analysis(likeness=[like(top) for top in tops]))
        assert found == verdict
        assert "random 0.0100" in words
        assert "at full rank 0.300 (random 0.020)" in words
