"""Metrics: predictions and labels in, one number out, larger is better.

A loss is a metric too, of the model's outputs: it enters as minus the mean loss (`LOSS`), so that larger is better there as well.
`register_metric` adds one, which a kind of task names among its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from d90.errors import InputError
from d90.registry import Registry
from d90.search.rules import Scale, set_scale

__all__ = ["LOSS", "METRICS", "register_metric", "rises", "to_display"]

LOSS = "loss"  # minus the mean loss of the outputs: cross-entropy, or the mean squared error
Measure = Callable[[Tensor, Tensor], float]


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """The share of examples predicted right."""
    return (predicted == labels).double().mean().item()


def f1(predicted: Tensor, labels: Tensor) -> float:
    """F1 of class 1, 2 TP / (2 TP + FP + FN), as GLUE reports it; 0 where nothing is predicted and nothing is there."""
    hit = ((predicted == 1) & (labels == 1)).sum().item()
    wrong = ((predicted == 1) ^ (labels == 1)).sum().item()
    return 2 * hit / (2 * hit + wrong) if hit + wrong else 0.0


def matthews(predicted: Tensor, labels: Tensor) -> float:
    """Matthews correlation of the confusion matrix (any number of classes); 0 for a constant prediction."""
    classes = int(max(predicted.max(), labels.max())) + 1
    table = torch.bincount(labels * classes + predicted, minlength=classes * classes).double().reshape(classes, classes)
    total, right = table.sum(), table.diagonal().sum()
    rows, columns = table.sum(1), table.sum(0)
    spread = ((total**2 - columns @ columns) * (total**2 - rows @ rows)).sqrt()
    return ((right * total - rows @ columns) / spread).item() if spread > 0 else 0.0


def pearson(predicted: Tensor, labels: Tensor) -> float:
    """Pearson correlation; 0 where either side is constant."""
    x, y = predicted.double() - predicted.double().mean(), labels.double() - labels.double().mean()
    spread = x.norm() * y.norm()
    return (x @ y / spread).item() if spread > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    """Ranks with ties at their mean rank."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[inverse]


def spearman(predicted: Tensor, labels: Tensor) -> float:
    """Spearman correlation: Pearson's, of the ranks."""
    return pearson(_ranks(predicted), _ranks(labels))


def _check(measure: Measure) -> None:
    if not callable(measure):
        raise InputError(
            f"got {measure!r} as a metric, expected a function of predictions and labels that gives a number"
        )


METRICS: Registry[Measure] = Registry(
    "metric",
    "d90.metrics",
    {measure.__name__: measure for measure in (accuracy, f1, matthews, pearson, spearman)}
    | {
        "exact": accuracy,
        "contains": accuracy,
    },  # of answers: 1 for a right one, against labels of 1 (`d90.tasks.answers`)
    check=_check,
)


def register_metric(name: str, measure: Measure, *, share: bool = False, correlation: bool = False) -> None:
    """Add a metric: a kind of task that has its name among `metrics` can be scored by it.

    Args:
        name: small letters, digits, "-" and "_".
        measure: (predictions, labels) to a number, larger is better.
        share: 0 is the worst and 1 the best there is: shown in percent, and the paper's rule holds of it.
        correlation: from -1 to 1, and 0 without any skill.

    Raises:
        InputError: another metric has the name.
    """
    METRICS.register(name, measure)
    set_scale(name, Scale(share=share, correlation=correlation))


def to_display(score: float, metric: str) -> float:
    """A score as a reader expects it under its metric's name, and back: a loss is minus its score."""
    return 0.0 - score if metric == LOSS else score


def rises(metric: str) -> bool:
    """Whether more is better of what is displayed: of a score, not of a loss."""
    return metric != LOSS
