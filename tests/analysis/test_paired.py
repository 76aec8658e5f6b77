"""The paired test: against the textbook, against an exact likelihood, and its level and power over many pairs."""

from __future__ import annotations

import numpy
import pytest
import torch
from scipy import optimize, stats

from d90.analysis.paired import compare_paired, examples_needed, nuisance, power, score_of_table, tango_bound
from d90.errors import InputError
from d90.tasks.metrics import METRICS


@pytest.mark.parametrize(("b", "c", "n"), [(12, 5, 100), (0, 7, 60), (9, 0, 60), (30, 31, 400)])
@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_the_nuisance_maximises_the_likelihood(b: int, c: int, n: int, margin: float) -> None:
    def minus(q: float) -> float:
        shares = numpy.maximum([q + margin, q, 1 - 2 * q - margin], 1e-300)
        return -float(numpy.dot([b, c, n - b - c], numpy.log(shares)))

    best = optimize.minimize_scalar(minus, bounds=(1e-12, (1 - margin) / 2 - 1e-12), options={"xatol": 1e-12}).x
    assert nuisance(b, c, n, margin) == pytest.approx(best, abs=2e-5)


@pytest.mark.parametrize(("b", "c", "n"), [(1, 0, 44), (0, 1, 44), (20, 12, 200)])
def test_at_the_bound_the_score_statistic_is_at_its_level(b: int, c: int, n: int) -> None:
    """The statistic from the definition: (estimate - bound) over its deviation under the bound, likelihood by brute force."""
    bound = tango_bound(b, c, n, 0.025)
    q = numpy.linspace(max(0, bound) + 1e-9, (1 + bound) / 2 - 1e-9, 400_001)  # right for the tune alone
    shares = numpy.stack([q - bound, q, 1 - 2 * q + bound])
    best = q[numpy.argmax(numpy.array([b, c, n - b - c]) @ numpy.log(numpy.maximum(shares, 1e-300)))]
    deviation = ((2 * best - bound - bound**2) / n) ** 0.5
    assert ((c - b) / n - bound) / deviation == pytest.approx(1.96, abs=2e-3)


def test_without_a_difference_the_bound_is_that_of_a_score_interval() -> None:
    z2 = stats.norm.isf(0.05) ** 2
    assert tango_bound(0, 0, 500, 0.05) == pytest.approx(-z2 / (500 + z2))
    assert tango_bound(500, 0, 500, 0.05) == -1
    assert 0.98 < tango_bound(0, 500, 500, 0.05) < 1


@pytest.mark.parametrize("metric", ["f1", "matthews"])
@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_tables_are_the_metrics(metric: str, classes: int) -> None:
    if metric == "f1" and classes > 2:
        return
    draw = numpy.random.default_rng(classes)
    labels, predicted = draw.integers(0, classes, (2, 90))
    table = numpy.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    expected = METRICS[metric](torch.from_numpy(predicted), torch.from_numpy(labels))
    assert score_of_table(metric, table) == pytest.approx(expected)
    assert score_of_table(metric, numpy.stack([table, table]))[1] == pytest.approx(expected)


def pairs(draw: numpy.random.Generator, n: int, discordant: float, difference: float) -> tuple:
    """Two classes; the reference is right on 85 %, the tune differs on `discordant`, net `difference`."""
    only = numpy.array([(discordant - difference) / 2, (discordant + difference) / 2])  # reference alone, tune alone
    kind = draw.choice(4, size=n, p=[0.85 - only[0], *only, 0.15 - only[1]])
    labels = draw.integers(0, 2, n)
    right, wrong = labels, 1 - labels
    reference = numpy.where((kind == 0) | (kind == 1), right, wrong)
    tune = numpy.where((kind == 0) | (kind == 2), right, wrong)
    return tune, reference, labels


@pytest.mark.parametrize(("n", "discordant", "margin"), [(408, 0.08, 0.02), (1000, 0.05, 0.01), (300, 0.04, 0.03)])
def test_level_and_power_over_two_thousand_pairs(n: int, discordant: float, margin: float) -> None:
    draw, count = numpy.random.default_rng(n), 2000
    needed = examples_needed(discordant, margin)

    def passes(size: int, difference: float) -> float:
        only = (discordant - difference) / 2, (discordant + difference) / 2
        table = draw.multinomial(size, [*only, 1 - discordant], size=count)
        return float(numpy.mean([tango_bound(b, c, size, 0.05) > -margin for b, c, _ in table.tolist()]))

    assert passes(n, -margin) <= 0.05 + 2 * (0.05 * 0.95 / count) ** 0.5, "false 'good enough' at the edge of H0"
    assert passes(needed, 0.0) >= 0.8 - 2 * (0.8 * 0.2 / count) ** 0.5
    assert passes(n, 0.0) == pytest.approx(power(n, discordant, margin), abs=0.05)


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_the_stated_number_of_examples_knows_the_metric(metric: str) -> None:
    """A point of Matthews is half a point of accuracy: the discordant share alone would state four times too few."""
    draw, margin = numpy.random.default_rng(3), 0.04
    pilot = compare_paired(metric, *pairs(draw, 20_000, 0.05, 0.0))
    assert pilot.deviation is not None
    needed = examples_needed(pilot.discordant, margin, deviation=pilot.deviation)
    passed = numpy.mean([compare_paired(metric, *pairs(draw, needed, 0.05, 0.0)).lower > -margin for _ in range(300)])
    assert passed == pytest.approx(0.8, abs=0.09)
    assert compare_paired("accuracy", *pairs(draw, 100, 0.05, 0.0)).deviation is None


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_a_bound_covers_the_difference(metric: str) -> None:
    """The true difference of F1 and Matthews is that of the same law with many examples."""
    draw = numpy.random.default_rng(7)
    many = compare_paired(metric, *pairs(draw, 400_000, 0.1, -0.02)).difference
    found = [compare_paired(metric, *pairs(draw, 500, 0.1, -0.02)) for _ in range(300)]
    missed = numpy.mean([one.lower > many for one in found])
    assert missed <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5
    assert missed > 0.01
    assert found[0].n == 500
    assert found[0] == compare_paired(metric, *pairs_again()), "equal input, equal bound"


def pairs_again() -> tuple:
    draw = numpy.random.default_rng(7)
    pairs(draw, 400_000, 0.1, -0.02)
    return pairs(draw, 500, 0.1, -0.02)


def test_what_does_not_fit_is_refused() -> None:
    three = numpy.array([0, 1, 1])
    with pytest.raises(InputError, match="expected as many"):
        compare_paired("accuracy", three[:2], three, three)
    with pytest.raises(InputError, match="'pearson'"):
        compare_paired("pearson", three, three, three)


def test_examples_in_groups_count_as_the_groups_do() -> None:
    drawn = numpy.random.default_rng(0)
    labels = numpy.ones(300, int)
    tune, reference = ((drawn.random(300) < 0.85).astype(int) for _ in range(2))
    groups = numpy.repeat(numpy.arange(300), 5)
    often = compare_paired("exact", *(numpy.repeat(one, 5) for one in (tune, reference, labels)), groups=groups)
    once = compare_paired("exact", tune, reference, labels)
    assert (often.n, once.n, once.effective) == (1500, 300, 300)
    assert often.effective == pytest.approx(300, rel=0.01)
    assert (often.difference, often.discordant) == (once.difference, once.discordant)
    assert often.lower == pytest.approx(once.lower, abs=1e-3)
    blind = compare_paired("exact", *(numpy.repeat(one, 5) for one in (tune, reference, labels)))
    assert blind.lower > once.lower + 0.01, "taken singly they promise too much"
    same = compare_paired("exact", *(numpy.repeat(one, 5) for one in (tune, tune, labels)), groups=groups)
    assert same.lower == pytest.approx(compare_paired("exact", tune, tune, labels).lower)
