"""Where the time of a whole training run goes: minilm on docstrings, SAID d = 1000, as `d90 train` runs it.

The model's own forward and backward pass, the subspace's part (writing the weights, folding the gradients), the optimizer,
evaluation, and the rest (batches, padding, loss, progress), as shares of the run. Only `training.fit` is timed: reading the
data and loading the model come once and are given apart.

    python benchmarks/shares.py        writes shares.json
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import beside, processor

import d90
from d90.subspace.hooks import Hooks
from d90.training import loop as training
from d90.training import steps

SPENT: dict[str, float] = defaultdict(float)
OPEN: list[float] = []  # what the timers inside the running one have taken


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what `function` takes, but for the timers inside it, to SPENT[name]."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        OPEN.append(0.0)
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            took = time.perf_counter() - began
            SPENT[name] += took - OPEN.pop()
            if OPEN:
                OPEN[-1] += took

    return call


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    places = [
        ("subspace", d90.Subspace, "flush"),
        ("subspace", Hooks, "_fold"),
        ("subspace", Hooks, "_finish_backward"),
        ("forward", steps, "outputs_of"),
        ("backward", torch.Tensor, "backward"),
        ("optimizer", torch.optim.Adam, "step"),
        ("evaluation", steps, "assess"),
        ("the rest of the loop", training, "fit"),
        ("model and data, once", training, "train"),
    ]
    with ExitStack() as stack:
        for name, owner, attribute in places:
            stack.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        run = training.train(
            "minilm", "docstrings", "full@d=1000,structure=said", train_limit=2000, validation_limit=300, epochs=2.0
        )
    apart = SPENT.pop("model and data, once")
    evaluation = SPENT.pop("evaluation")
    total = sum(SPENT.values())
    shares = {name: round(took / total, 4) for name, took in SPENT.items()}
    line = {"processor": processor(), "threads": torch.get_num_threads(), "steps": run.outcome.steps}
    line |= {"of the steps": shares, "not forward or backward": round(1 - shares["forward"] - shares["backward"], 4)}
    line |= {
        "seconds a step": round(total / run.outcome.steps, 4),
        "evaluation, of the run": round(evaluation / (total + evaluation), 4),
    }
    line |= {"model and data, seconds": round(apart, 1), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(line, indent=1))
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(beside(out, line), indent=1) + "\n")


if __name__ == "__main__":
    main()
