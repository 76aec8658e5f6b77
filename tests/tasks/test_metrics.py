"""Metrics against plain loops over the examples."""

from __future__ import annotations

import math

import pytest
import torch

from d90.tasks.metrics import METRICS


def _draw(seed: int, classes: int, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    noisy = torch.randint(0, classes, (n,), generator=generator)
    return torch.where(torch.rand(n, generator=generator) < 0.6, labels, noisy), labels


def _correlation(x: list[float], y: list[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return above / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def _mean_ranks(values: list[float]) -> list[float]:
    return [sum(w < v for w in values) + (1 + sum(w == v for w in values)) / 2 for v in values]


@pytest.mark.parametrize("seed", range(4))
def test_accuracy_f1_and_matthews_of_two_classes(seed: int) -> None:
    predicted, labels = _draw(seed, 2)
    cells = {(p, y): 0 for p in (0, 1) for y in (0, 1)}
    for pair in zip(predicted.tolist(), labels.tolist(), strict=True):
        cells[pair] += 1
    tp, fp, fn, tn = cells[1, 1], cells[1, 0], cells[0, 1], cells[0, 0]
    assert METRICS["accuracy"](predicted, labels) == pytest.approx((tp + tn) / 60)
    assert METRICS["f1"](predicted, labels) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert METRICS["matthews"](predicted, labels) == pytest.approx((tp * tn - fp * fn) / spread)


@pytest.mark.parametrize("classes", [3, 5])
def test_matthews_of_many_classes_is_the_correlation_of_indicators(classes: int) -> None:
    predicted, labels = _draw(classes, classes)

    def covariance(a: list[int], b: list[int]) -> float:
        total = 0.0
        for k in range(classes):
            x, y = [float(v == k) for v in a], [float(v == k) for v in b]
            total += sum(p * q for p, q in zip(x, y, strict=True)) / 60 - sum(x) * sum(y) / 3600
        return total

    p, y = predicted.tolist(), labels.tolist()
    expected = covariance(p, y) / math.sqrt(covariance(p, p) * covariance(y, y))
    assert METRICS["matthews"](predicted, labels) == pytest.approx(expected)


def test_correlations_with_ties() -> None:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 6, (50,), generator=generator).float()
    predicted = (labels + torch.randn(50, generator=generator)).mul(2).round().div(2)
    x, y = predicted.tolist(), labels.tolist()
    assert len(set(x)) < 50  # ties on both sides
    assert METRICS["pearson"](predicted, labels) == pytest.approx(_correlation(x, y))
    assert METRICS["spearman"](predicted, labels) == pytest.approx(_correlation(_mean_ranks(x), _mean_ranks(y)))
    assert METRICS["spearman"](labels.exp(), labels) == pytest.approx(1)


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_a_constant_prediction_is_worth_nothing(name: str) -> None:
    labels = torch.arange(30) % 3
    kind = labels.dtype if name == "matthews" else torch.float32
    assert METRICS[name](torch.ones(30, dtype=kind), labels.to(kind)) == 0


def test_a_constant_that_rounds_badly_is_worth_nothing_either() -> None:
    labels = torch.linspace(0, 5, 999)
    assert METRICS["pearson"](torch.full((999,), 0.1), labels) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_perfect_prediction_is_worth_one(name: str) -> None:
    labels = torch.arange(20) % 2
    assert METRICS[name](labels.clone(), labels) == pytest.approx(1)


def test_f1_where_nothing_is_there() -> None:
    assert METRICS["f1"](torch.zeros(4), torch.zeros(4)) == 0
