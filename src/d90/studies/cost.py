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

import torch
from torch.profiler import ProfilerActivity, profile

from d90.methods import Full, Spec, apply
from d90.results.cost import Cost
from d90.training.batches import device_of, outputs_of
from d90.training.loop import Data, context
from d90.training.precision import autocast, precision_of
from d90.training.recipe import Recipe

__all__ = ["probe"]

STEPS = 3  # timed in a round, after one that is not


def probe(data: Data, specs: Sequence[Spec], recipe: Recipe, rounds: int = 3) -> list[Cost]:
    """Measure each method on the first batch of the task, `recipe.batch_size` examples.

    Returns:
        A Cost for each spec, in their order.
    """
    module = data.model.module
    chosen = data.train.shuffled(recipe.batch_size, recipe.seed, 0)[0]
    device = device_of(module)
    labels, precision = data.train.labels[chosen].to(device), precision_of(recipe, data)
    inputs = data.train.inputs(chosen)

    def forward() -> torch.Tensor:
        with autocast(module, precision):
            return outputs_of(module, inputs, data.task.kind)

    def trainer(spec: Spec) -> tuple[Callable[[], None], Callable[[], None]]:
        applied_method = apply(spec, module, recipe.seed, context(data, recipe))
        optimizer = torch.optim.Adam(list(applied_method.trained.parameters()), lr=1e-5)
        module.train()

        def step() -> None:
            data.task.kind.training_loss(forward(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        def leave() -> None:
            applied_method.release()

        return step, leave

    modes = [(part, part.training) for part in module.modules()]
    everything = [
        Spec(Full()),
        *(spec for spec in specs if str(spec) != "full"),
    ]  # full is what the others are measured by
    steps: list[list[float]] = [[] for _ in everything]
    passes: list[list[float]] = [[] for _ in everything]
    peaks = [0] * len(everything)
    try:
        for turn in range(rounds):
            for i, spec in enumerate(everything):
                step, leave = trainer(spec)
                try:
                    step()
                    if turn == 0:
                        peaks[i] = _peak(step, device)
                    steps[i].append(_timed(step, device))
                    module.eval()
                    # merged, a model is the base's shape: what is timed for it is the base itself
                    with torch.no_grad():
                        passes[i].append(_timed(forward, device) if not spec.method.merges else 0.0)
                finally:
                    leave()
            module.eval()
            with torch.no_grad():
                forward()
                base = _timed(forward, device)
            passes = [[*row[:-1], row[-1] or base] for row in passes]
            passes[0][-1] = base
    finally:
        for part, mode in modes:
            part.training = mode
    costs = {
        str(spec): Cost(
            statistics.median(steps[i]),
            statistics.median(a / b for a, b in zip(steps[i], steps[0], strict=True)),
            peaks[i],
            statistics.median(passes[i]),
            statistics.median(a / b for a, b in zip(passes[i], passes[0], strict=True)),
        )
        for i, spec in enumerate(everything)
    }
    return [costs[str(spec)] for spec in specs]


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


def _peak(run: Callable[[], object], device: torch.device) -> int:
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
