"""What a certificate is: the coded tunes that were tried, the best of them, and what the guarantee rests on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.analysis import bounds
from d90.errors import InputError
from d90.projections.philox import words
from d90.tasks import Split, Task

__all__ = ["Candidate", "Certificate", "assumptions", "bounded", "majority_error", "parts", "take", "tighter"]


@dataclass(frozen=True)
class Candidate:
    """One coded tune: `payload` is the message in hex, "" for no change at all."""

    d: int
    levels: int
    bits: float
    errors: int
    bound: float
    payload: str
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """What is guaranteed, with everything needed to check it again.

    Attributes:
        n, errors: the examples the bound counts, and how many the decoded model gets wrong.
        bits, parts: description length, and where it goes.
        bound: on the true error, at confidence 1 - delta; `kl_bound` by inverting the relative entropy.
        test_error, test_count, split: on examples no choice has seen.
        majority: the error of always giving the most frequent class.
        holdout: what holding out a tenth of the same examples would have certified at this test error.
        tighter: the bound if one thing were better, by name.
        assumptions: what the guarantee rests on, and what was found about it.
    """

    model: str
    task: str
    method: str
    n: int
    errors: int
    bits: float
    parts: dict[str, float]
    delta: float
    bound: float
    kl_bound: float
    test_error: float
    test_count: int
    split: str
    majority: float
    holdout: float
    prior: int
    best: Candidate
    candidates: tuple[Candidate, ...]
    tighter: dict[str, float]
    assumptions: tuple[str, ...]
    recipe: dict[str, Any]
    definitions: dict[str, Any]
    command: str = ""

    @property
    def error(self) -> float:
        """Training error of the decoded model on the examples that count."""
        return self.errors / self.n

    def __str__(self) -> str:
        worth = "" if self.bound < self.majority else ", which says nothing: the majority class errs no more"
        return (
            f"true error <= {self.bound:.2%} with probability {1 - self.delta:.0%}{worth} (training error {self.error:.2%} on {self.n:,}, "
            f"{self.bits:.0f} bits, {self.split} error {self.test_error:.2%}; a hold-out of a tenth: {self.holdout:.2%})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; `check` reads it back and counts the errors again."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def parts(task: Task, prior: float) -> tuple[Task | None, Task]:
    """The prior's task and the one that counts, by our own bits: chosen before anything is seen."""
    if prior == 0:
        return None, task
    n = len(task.train)
    keys = words(0, "split", torch.tensor([0]), -(-n // 4))[0, :n]
    order = torch.argsort(keys, stable=True)
    cut = round(prior * n)
    if not 0 < cut < n:
        raise InputError(f"got prior={prior} of {n} examples, expected at least one on each side")
    return replace(task, train=take(task.train, order[:cut])), replace(task, train=take(task.train, order[cut:]))


def take(split: Split, chosen: Tensor) -> Split:
    """The examples with these numbers."""
    inputs = split.inputs[chosen] if isinstance(split.inputs, Tensor) else [split.inputs[i] for i in chosen.tolist()]
    return Split(inputs, split.labels[chosen])


def bounded(candidate: Candidate, n: int, delta: float) -> Candidate:
    """The candidate with its bound on n examples, at confidence 1 - delta."""
    return replace(candidate, bound=bounds.binomial_upper(candidate.errors, n, delta, candidate.bits))


def majority_error(task: Task, split: str) -> float:
    """The error of always giving the training examples' most frequent class."""
    common = torch.bincount(task.train.labels).argmax()
    return float((task.splits[split].labels != common).float().mean())


def tighter(best: Candidate, n: int, delta: float) -> dict[str, float]:
    """The bound if the message were free, if no example were wrong, and with twice the examples."""
    return {
        "no bits at all": bounds.binomial_upper(best.errors, n, delta),
        "no training error": bounds.binomial_upper(0, n, delta, best.bits),
        "twice the examples": bounds.binomial_upper(2 * best.errors, 2 * n, delta, best.bits),
    }


def assumptions(task: Task, first: Task | None) -> tuple[str, ...]:
    """What the guarantee rests on, and what was found about it in the examples."""
    inputs = task.train.inputs
    if isinstance(inputs, Tensor):
        distinct = len(torch.unique(inputs.flatten(1), dim=0)) if len(inputs) <= 100_000 else len(inputs)
    else:
        distinct = len(set(inputs))
    said = ["the examples are independent draws from the distribution the error is of"]
    repeated = len(task.train) - distinct
    if repeated:
        said.append(
            f"{repeated:,} of {len(task.train):,} examples repeat another: likely copies, not independent draws"
        )
    else:
        said.append("no example repeats another")
    said.append("the base model was not trained on these examples (not checked)")
    if first is not None and not isinstance(inputs, Tensor):
        shared = len(set(first.train.inputs) & set(inputs))
        said.append(f"{shared:,} examples stand in the prior's part as well")
    return tuple(said)
