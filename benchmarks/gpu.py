"""Forward and adjoint on a GPU, as bandwidths beside the card's copy rate; written to gpu.json, an entry a card.

    forward   theta_0 + P theta    reads 4 and writes 4 bytes a weight
    adjoint   P^T g                reads 4 bytes a weight
    copy      a tensor of D weights onto another: reads 4 and writes 4

Times are of events on the card, in turn, medians of rounds. Fastfood runs in Triton; the other projections run on torch there, which
the lines say.

    python benchmarks/gpu.py [--sizes 2.3e7 3.55e8] [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import beside, save

from d90.projections import build
from d90.projections.targets import Fold, Target

RUNS = [("fastfood:sign", d) for d in (200, 1000, 100_000)] + [("onehot:sign", 1000), ("kronecker:sign", 1024)]


def milliseconds(run: Callable[[], object]) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    run()
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended))


def measure(spec: str, D: int, d: int, rounds: int) -> dict[str, Any]:
    width = 1 << 10
    base = torch.randn(D // width * width, device="cuda")
    out = torch.empty_like(base)
    projection = build(spec, d, [(len(base) // width, width)], seed=1)
    z = projection.prepare(torch.randn(d, device="cuda"))
    gradients = torch.zeros(1, projection.z_size, dtype=torch.float64, device="cuda")
    runs: dict[str, Callable[[], object]] = {
        "copy": lambda: out.copy_(base),
        "forward": lambda: projection.write([Target(0, base, 0.5, z, out)]),
        "adjoint": lambda: projection.fold_together([Fold(0, base, 1.0, 0)], gradients),
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            one = milliseconds(run)
            if turn > 1:  # the first compile
                took[name].append(one)
    middle = {name: statistics.median(times) for name, times in took.items()}
    rate = {name: (4 if name == "adjoint" else 8) * len(base) / middle[name] / 1e6 for name in runs}  # GB/s
    return {
        "projection": spec, "D": D, "d": d, "on": "triton" if projection.folds_together(base) else "torch",
        **{f"{name}_ms": round(value, 3) for name, value in middle.items()},
        **{f"{name}_GB_s": round(value, 1) for name, value in rate.items()},
        "forward_of_copy": round(rate["forward"] / rate["copy"], 3), "adjoint_of_copy": round(rate["adjoint"] / rate["copy"], 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=float, nargs="+", default=[2.3e7, 3.55e8], help="values of D")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(3, "gpu.py: torch sees no GPU here, expected one; nothing was measured\n")
    lines: list[dict[str, Any]] = []
    for D in map(int, given.sizes):
        for spec, d in RUNS:
            lines.append(line := measure(spec, D, d, given.rounds))
            print(line, flush=True)
            result = {"processor": torch.cuda.get_device_name(), "threads": 1, "lines": lines}
            save(given.output, beside(given.output, result, ("projection", "D", "d")))


if __name__ == "__main__":
    main()
