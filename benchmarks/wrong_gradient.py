"""What the released code's wrong gradient does: each tensor's gradient times 1 / L_t, L_t the next power of two of its size.

    python benchmarks/wrong_gradient.py DATA [--seeds 0 1000] [--store FOLDER] [--out benchmarks/wrong_gradient.json]

The forward map of the released SAID code uses an unnormalised Walsh-Hadamard transform, its backward divides by sqrt(L) a call: what
reaches theta is sum_t P_t^T g_t / L_t in place of sum_t P_t^T g_t, so a bias of ten numbers outweighs a matrix of 156,800 by a factor of
16,384. Adam hides a common factor and not this one. Here the wrong gradient is put in by hooks, in this file alone.

MNIST (10,000 images, 5 epochs; DATA holds mnist/), the fully connected network 784-200-200-10. With Adam at the default rate: d90 by
the search, with either gradient, at scales tensor and global. With SGD (momentum 0.9), where the rate has no natural unit: accuracy at
d = 1,000 at the best rate of a climb by factors of 4, then with two more seeds. Trials lie in the store's folder: it goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from grid import climb
from torch import Tensor

import d90
from d90.methods import parse
from d90.options import TaskOptions, TrainingOptions, from_fields
from d90.training.console import progress_for
from d90.training.loop import open_task
from d90.training.recipe import make_recipe
from d90.trials.options import RunOptions
from d90.trials.request import TrialRequest
from d90.trials.runner import TrialRunner
from d90.trials.store import Store

SIZES: dict[str, Any] = {"epochs": 5, "batch_size": 128, "evaluations": 10, "train_limit": 10_000, "lr": None}
SCALES = ("tensor", "global")
D = 1000  # of the trials with SGD
FIRST_RATES = {"right": 0.01, "wrong": 10.0}
STEP = 4.0


@contextlib.contextmanager
def gradient(kind: str) -> Iterator[None]:
    """Subspaces that are armed meanwhile get the right gradient or the wrong one."""
    enable = d90.Subspace.enable

    def enabled(space: d90.Subspace) -> None:
        if not space._handles:
            for tensor in space._tensors:
                length = 1 << (tensor.numel() - 1).bit_length()
                space._handles.append(tensor.register_hook(lambda grad, length=length: grad / length))
            handles, space._handles = space._handles, []
            enable(space)
            space._handles += handles

    with mock.patch.object(d90.Subspace, "arm", enabled) if kind == "wrong" else contextlib.nullcontext():
        yield


def sgd(parameters: list[Tensor], lr: float, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay)


def with_adam(data: str, kind: str, scale: str, seed: int, store: Store) -> dict[str, Any]:
    """d90 by the search."""
    with gradient(kind):
        found = d90.measure(
            "fc", f"idx:{data}/mnist", f"full@scale={scale}", store=store, start=1000, seed=seed, progress=progress_for(False), **SIZES
        )  # fmt: skip
    return {
        "optimizer": "adam", "gradient": kind, "scale": scale, "seed": seed, "status": found.status, "d90": found.d90,
        "interval": found.interval, "baseline": found.baseline, "threshold": found.threshold, "spent": round(found.spent, 2),
        "curve": sorted({(point.d, round(point.score, 4)) for point in found.curve}),
    }  # fmt: skip


def with_sgd(data: str, kind: str, scale: str, store: Store) -> dict[str, Any]:
    """Accuracy at one d, at the best rate found."""
    spec = parse(f"full@d={D},scale={scale}")
    name = f"idx:{data}/mnist"
    task = open_task(name, make_recipe("fc", name, spec, *from_fields(SIZES, TrainingOptions(), TaskOptions())))

    def score(rate: float, seed: int = 0) -> float:
        recipe = make_recipe(
            "fc", name, spec, *from_fields(SIZES | {"lr": rate, "seed": seed}, TrainingOptions(), TaskOptions())
        )
        with gradient(kind), mock.patch.object(torch.optim, "Adam", sgd):
            run = RunOptions(store=store, progress=progress_for(False))
            return TrialRunner("fc", task, recipe, run).run([TrialRequest(spec, recipe)])[0].score

    first = FIRST_RATES[kind]
    scores = climb(score, (first / STEP, first, first * STEP), STEP, math.inf)
    best = max(scores, key=lambda rate: scores[rate])
    several = [scores[best], *(score(best, seed) for seed in (1, 2))]
    return {
        "optimizer": "sgd", "gradient": kind, "scale": scale, "d": D, "rate": best, "scores": several,
        "mean": round(statistics.fmean(several), 4), "rates": {f"{rate:g}": scores[rate] for rate in sorted(scores)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1000])
    parser.add_argument("--store", type=Path, default=Path("runs/wrong_gradient"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    rows = []
    for optimizer in ("adam", "sgd"):
        for scale in SCALES:
            for kind in ("right", "wrong"):
                # a trial's key knows neither gradient nor optimizer: a store each
                store = Store(given.store / f"{optimizer}_{kind}.sqlite")
                if optimizer == "adam":
                    rows += [with_adam(given.data, kind, scale, seed, store) for seed in given.seeds]
                else:
                    rows.append(with_sgd(given.data, kind, scale, store))
                store.close()
                given.out.write_text(json.dumps({"sizes": SIZES, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
