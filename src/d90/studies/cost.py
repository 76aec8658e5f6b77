"""What a method costs on this machine: the time of a step, its peak memory, the time of a forward pass beside the base's.

Every method is put on the same model in turn, round after round, and medians of ratios within a round are taken, so that a
machine whose speed drifts does not decide.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.profiler import ProfilerActivity, profile

from d90.methods import Full, Spec, apply
from d90.methods.spec import short_text
from d90.results.cost import Cost
from d90.training.batches import device_of, outputs_of
from d90.training.loop import Data, context
from d90.training.precision import autocast, precision_of
from d90.training.recipe import Recipe

__all__ = ["probe"]

STEPS = 3  # timed in a round, after one that is not


def probe(
    data: Data,
    specs: Sequence[Spec],
    recipe: Recipe,
    rounds: int = 3,
    note: Callable[[str], None] = lambda message: None,
) -> list[Cost]:
    """Measure each method on the first batch of the task, `recipe.batch_size` examples.

    Args:
        note: receives which method is measured, in which round.

    Returns:
        A Cost for each spec, in their order.
    """
    # full is what the others are measured by
    everything = [Spec(Full()), *(spec for spec in specs if str(spec) != "full")]
    module, taken = data.model.module, [_Taken() for _ in everything]
    modes = [(part, part.training) for part in module.modules()]
    batch = _Batch(data, recipe)
    try:
        for number in range(1, rounds + 1):
            for spec, times in zip(everything, taken, strict=True):
                note(f"time and memory of a step, round {number} of {rounds}: {short_text(spec)}")
                batch.measure(spec, times)
            module.eval()
            with torch.no_grad():
                batch.forward()
                base = _timed(batch.forward, batch.device)
            for spec, times in zip(everything, taken, strict=True):
                # merged, a model is the base's shape: what is timed for it is the base itself
                times.passes += [base] if spec.method.merges else []
    finally:
        for part, mode in modes:
            part.training = mode
    costs = {str(spec): times.beside(taken[0]) for spec, times in zip(everything, taken, strict=True)}
    return [costs[str(spec)] for spec in specs]


@dataclass
class _Taken:
    """What a method took: seconds of a step and of a forward pass, one a round, and peak bytes."""

    steps: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    peak: int = 0

    def beside(self, full: _Taken) -> Cost:
        """The medians, and those of the ratios to full fine-tuning."""
        return Cost(
            statistics.median(self.steps),
            statistics.median(a / b for a, b in zip(self.steps, full.steps, strict=True)),
            self.peak,
            statistics.median(self.passes),
            statistics.median(a / b for a, b in zip(self.passes, full.passes, strict=True)),
        )


class _Batch:
    """The batch on which methods are measured."""

    def __init__(self, data: Data, recipe: Recipe) -> None:
        chosen = data.train.shuffled(recipe.batch_size, recipe.seed, 0)[0]
        self.data, self.recipe, self.module = data, recipe, data.model.module
        self.device, self.precision = device_of(self.module), precision_of(recipe, data)
        self.labels, self.inputs = data.train.labels[chosen].to(self.device), data.train.inputs(chosen)

    def forward(self) -> torch.Tensor:
        """A forward pass."""
        with autocast(self.module, self.precision):
            return outputs_of(self.module, self.inputs, self.data.task.kind)

    def measure(self, spec: Spec, times: _Taken) -> None:
        """One round of a method: its steps, the first time their memory, and its forward passes where they are not the base's."""
        applied_method = apply(spec, self.module, self.recipe.seed, context(self.data, self.recipe))
        optimizer = torch.optim.Adam(list(applied_method.trained.parameters()), lr=1e-5)

        def step() -> None:
            self.data.task.kind.training_loss(self.forward(), self.labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        try:
            self.module.train()
            step()
            if not times.steps:
                times.peak = peak_memory(step, self.device)
            times.steps.append(_timed(step, self.device))
            self.module.eval()
            if not spec.method.merges:
                with torch.no_grad():
                    times.passes.append(_timed(self.forward, self.device))
        finally:
            applied_method.release()


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """The least of a few: what the machine needs when nothing disturbs it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    took = []
    wait()
    for _ in range(STEPS):
        began = time.perf_counter()
        run()
        wait()
        took.append(time.perf_counter() - began)
    return min(took)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Peak bytes allocated for tensors while `run` runs, above what was held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = peak = 0
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The profiler's library writes to standard error below Python; for its time that goes nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
