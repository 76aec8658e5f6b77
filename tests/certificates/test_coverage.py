"""Certificates hold as often as they say: a small seeded part of benchmarks/certificate_coverage.py, and bounds planted to be too small."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from d90.analysis import bounds

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("certificate_coverage", "certificate_worlds")
TASKS = 40


@pytest.fixture
def coverage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("certificate_coverage")
    for name in NAMES:
        sys.modules.pop(name, None)


def test_what_95_percent_promises(coverage: Any) -> None:
    """Of 40, 8 misses come once in 1,400 simulations, 7 once in 300; of 2,000, 135 once in 2,800."""
    assert coverage.holds_as_promised(33, 40)
    assert not coverage.holds_as_promised(32, 40)
    assert coverage.holds_as_promised(1_900, 2_000)
    assert not coverage.holds_as_promised(1_865, 2_000)


def test_the_true_bits_per_token_are_those_of_fresh_documents(coverage: Any) -> None:
    from d90.certificates.language import smoothed_bits
    from d90.training.batches import Batches
    from d90.training.loop import predict

    worlds = importlib.import_module("certificate_worlds")
    model, (task, steps) = worlds.step_model(), worlds.chain(3)
    with torch.no_grad():
        model.module.weight.copy_(torch.linspace(-1, 3, worlds.STEPS))
    seen = smoothed_bits(predict(model, Batches(model, task.train), "fp32"), 0.1, model.vocabulary)
    exact = worlds.true_bits(model, steps, 0.1)
    assert abs(seen.mean().item() - exact) < 4 * seen.std().item() / len(seen) ** 0.5
    assert seen.std() > 0.01


KINDS = (
    "errors",
    "errors, prior",
    "errors, shared codebook, prior",
    "errors, gaussian",
    "errors, gaussian, prior",
    "errors, draw",
    "errors, draw, prior",
    "bits per token",
    "bits per token, prior",
    "bits per token, betting",
    "bits per token, a part evaluated",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "bits per token, prior, a part evaluated"])
def test_certificates_hold_on_simulated_tasks(kind: str, coverage: Any) -> None:
    rows = [coverage.one(kind, seed) for seed in range(TASKS)]
    assert coverage.holds_as_promised(sum(row["truth"] <= row["bound"] for row in rows), TASKS)


PLANTED: dict[str, tuple[str, str, Callable[..., float]]] = {
    "the training error": ("errors", "binomial_upper", lambda errors, n, *_: errors / n),
    "the documents' mean": ("bits per token", "bits_per_token", lambda mean, *_, **__: mean),
    "the evaluated documents' mean": (
        "bits per token, a part evaluated",
        "bits_per_token",
        lambda mean, *_, **__: mean,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(PLANTED))
def test_a_bound_that_is_too_optimistic_is_found(case: str, coverage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, name, planted = PLANTED[case]
    monkeypatch.setattr(bounds, name, planted)
    rows = [coverage.one(kind, seed) for seed in range(TASKS)]
    assert not coverage.holds_as_promised(sum(row["truth"] <= row["bound"] for row in rows), TASKS)
