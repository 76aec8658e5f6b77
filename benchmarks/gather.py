"""Our forward pass beside what one finds elsewhere: theta_0 + P theta for D = 22 million.

    gather      peft's Uni-LoRA, `theta_d[indices] * scales` (tuners/unilora/layer.py), then the sum: one index and one scale
                a weight are held, 12 bytes with int64 indices
    full block  the released form of Fastfood: one block of L = 2^ceil(log2 D), B, Pi and G held, H by torch's butterflies

The package intrinsic-dimensionality 0.1 on PyPI, often named for this, holds no code (its wheel is metadata alone), so the
form its public repository uses, the full block, is timed in its place. Taken in turn, medians.

    python benchmarks/gather.py [--clock cpu]        writes gather.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch
from machine import beside, processor
from torch import Tensor

from d90.projections import build
from d90.projections.base import Target

D, d = 22_713_986, 1000


def gather(theta_0: Tensor, out: Tensor) -> Callable[[], None]:
    indices, scales, theta = torch.randint(0, d, (D,)), torch.full((D,), (D / d) ** -0.5), torch.randn(d)

    def run() -> None:
        out.copy_(theta_0 + theta[indices] * scales)

    return run


def full_block(theta_0: Tensor, out: Tensor) -> Callable[[], None]:
    size = 1 << math.ceil(math.log2(D))
    signs, order, gauss = torch.randint(0, 2, (size,)) * 2.0 - 1, torch.randperm(size), torch.randn(size)
    theta = torch.zeros(size)
    theta[:d] = torch.randn(d)

    def hadamard(x: Tensor) -> Tensor:
        h = 1
        while h < size:
            pairs = x.view(-1, 2, h)
            x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), dim=1).view(-1)
            h *= 2
        return x

    scale = 1 / (math.sqrt(size * float(gauss.square().sum())) * math.sqrt(D / size))

    def run() -> None:
        out.copy_(theta_0 + hadamard(hadamard(theta * signs)[order] * gauss)[:D] * scale)

    return run


def ours(theta_0: Tensor, out: Tensor) -> Callable[[], None]:
    projection, theta = build("fastfood", d, [D], 0), torch.randn(d)

    def run() -> None:
        projection.write([Target(0, theta_0, 1.0, projection.prepare(theta), out)])

    return run


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: the least processor time of one thread, for a busy machine",
    )
    clock = parser.parse_args().clock
    now, one = CLOCKS[clock], statistics.median if clock == "wall" else min
    torch.set_num_threads((os.cpu_count() or 1) if clock == "wall" else 1)
    theta_0, out = torch.randn(D), torch.empty(D)
    runs = {"ours": ours(theta_0, out), "gather": gather(theta_0, out), "full block": full_block(theta_0, out)}
    took: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for turn in range(8):
            for name, run in runs.items():
                began = now()
                run()
                if turn:
                    took[name].append(now() - began)
    medians = {name: one(times) for name, times in took.items()}
    large = 355_000_000
    tracemalloc.start()
    began = time.perf_counter()
    held = build("fastfood", d, [large], 0)
    set_up = time.perf_counter() - began
    python = tracemalloc.get_traced_memory()[1]
    tensors = sum(t.nbytes for t in vars(held).values() if isinstance(t, Tensor))
    line = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "clock": clock,
        "D": D,
        "d": d,
        "ms": {name: round(1e3 * median, 2) for name, median in medians.items()},
        "times ours": {name: round(median / medians["ours"], 1) for name, median in medians.items()},
        "set-up at D = 355 million": {"seconds": round(set_up, 5), "bytes held": python + tensors},
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(line, indent=1))
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(beside(out, line), indent=1) + "\n")


if __name__ == "__main__":
    main()
