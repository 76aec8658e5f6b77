"""What a certificate is: the coded tunes that were tried, the best of them, and what the guarantee rests on."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d90.analysis import bounds
from d90.errors import InputError
from d90.models.loading import Model
from d90.projections.philox import permutation
from d90.tasks import Split, Task
from d90.tasks.hub import GLUE
from d90.tasks.overlap import common, overlap

__all__ = [
    "WARNING",
    "Candidate",
    "Certificate",
    "assumptions",
    "base_hints",
    "bounded",
    "majority_error",
    "parts",
    "take",
    "tighter",
]


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
    order = permutation(0, "split", 0, n)
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


def assumptions(task: Task, first: Task | None, model: Model) -> tuple[str, ...]:
    """What the guarantee rests on, and what was found about it in the examples and about the base model."""
    found = overlap(task.train).lines
    said = ["the examples are independent draws from the distribution the error is of"]
    said += [f"{WARNING}: {line}" for line in found] or ["no example repeats another"]
    for name, other in (("test", task.test), ("validation", task.validation)):
        repeated = common(other, task.train) if other is not None else 0
        if repeated:
            said.append(f"{WARNING}: {repeated:,} {name} examples stand among the training examples as well")
    if first is not None:
        repeated = common(task.train, first.train)
        if repeated:
            said.append(f"{WARNING}: {repeated:,} of {len(task.train):,} examples stand in the prior's part as well")
    hints = base_hints(model, task)
    said.append("the base model was not trained on these examples" + (" (not checked)" if not hints else ""))
    return (*said, *(f"{WARNING}: {hint}; a base that saw these examples voids the bound" for hint in hints))


WARNING = "warning"


def base_hints(model: Model, task: Task) -> list[str]:
    """What says that the base model may have been trained on the task's examples: its head, name, card, or own record."""
    hints = []
    if model.tokenizer is not None and model.vocabulary is None and not model.fresh:
        hints.append(
            f"the base '{model.name}' comes with a head for {len(task.labels)} classes, so it was trained on labels"
        )
    folder = Path(model.name)
    # as `d90 pretrain` leaves it, beside the checkpoints
    text = next((text for path in (folder, folder.parent) if (text := _pretrained_on(path)) is not None), None)
    source = Path(task.name.partition(":")[2] or task.name).resolve()
    if text is not None and (text == source or source in text.parents):
        hints.append(f"the base '{model.name}' was pretrained on '{text.name}' of this task")
    last = task.name.lower().rpartition("/")[2]
    name = next((part for part in re.split("[^a-z0-9]+", last) if part in DATASETS), None)
    if name is not None:
        if _speaks_of(model.name, name):
            hints.append(f"the name of the base, '{model.name}', speaks of {name}")
        with contextlib.suppress(OSError, ValueError):
            if _speaks_of((folder / "README.md").read_text(encoding="utf-8"), name):
                hints.append(f"the card of the base '{model.name}' speaks of {name}")
    return hints


DATASETS = {name.removeprefix("glue/") for name in GLUE} | {"glue", "imdb", "yelp", "anli", "snli", "wiki"}


def _pretrained_on(folder: Path) -> Path | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return Path(json.loads((folder / "pretraining.json").read_text(encoding="utf-8"))["recipe"]["text"]).resolve()
    return None


def _speaks_of(text: str, name: str) -> bool:
    """Whether a word of the text, or two in a row, is the name: "SST-2" is sst2."""
    found = re.findall("[a-z0-9]+", text.lower())
    return name in found or any(a + b == name for a, b in itertools.pairwise(found))
