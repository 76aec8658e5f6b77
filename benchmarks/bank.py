"""A Bank's switch over its memory floor, the listing of many tunes, and batches of many tunes (`batch.py`).

The floor is one pass that reads theta_0 and writes the weights (`copy_` of every tensor of minilm, D = 2.3e7). A switch
also reads and checks a file and computes P theta. In turn, medians of rounds; "over floor" is the median of the ratios within
a round.

    python benchmarks/bank.py [--rounds 15] [--tunes 1000] [--clock cpu] [--only batch]        writes bank.json
    python benchmarks/bank.py --only generate --rounds 2                                      SmolLM2 writes: minutes

`--clock cpu` counts this process's processor time, for a machine that others keep busy; run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from batch import READING, WRITING, many, mixed
from machine import beside, processor

import d90
from d90.models import loading as models
from d90.subspace import file as tune_file

CASES = {"DID d = 1,000": (1000, "did"), "SAID d = 1,000": (1000, "said"), "DID d = 16,000": (16000, "did")}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def seconds(act: Callable[[], object]) -> float:
    began = clock()
    act()
    return clock() - began


def written(model: torch.nn.Module, folder: Path, d: int, structure: str, count: int) -> None:
    """`count` tunes of random numbers over the model."""
    space = d90.Subspace(model, d, structure=structure)
    header = space.header()
    space.release()
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        theta = 0.01 * torch.randn(d, generator=generator)
        tune_file.write(folder / f"t{i:04}.d90", header, {"theta": theta})


def switches(model: torch.nn.Module, d: int, structure: str, rounds: int) -> dict[str, Any]:
    places = [parameter.detach() for parameter in model.parameters()]
    base = [place.clone() for place in places]

    def floor() -> None:
        for place, value in zip(places, base, strict=True):
            place.copy_(value)

    with tempfile.TemporaryDirectory() as folder:
        written(model, Path(folder), d, structure, 2)
        bank = d90.Bank(model, folder)
        first = seconds(lambda: bank.use("t0000"))
        bank.use("t0001")
        took: dict[str, list[float]] = {"floor": [], "switch": []}
        for i in range(rounds):
            took["floor"].append(seconds(floor))
            took["switch"].append(seconds(lambda i=i: bank.use(f"t000{i % 2}")))
        bank.release()
    over = statistics.median(a / b for a, b in zip(took["switch"], took["floor"], strict=True))
    millis = {f"{name} ms": round(1000 * statistics.median(times), 2) for name, times in took.items()}
    return {
        "D": sum(p.numel() for p in places),
        **millis,
        "over floor": round(over, 2),
        "first ms": round(1000 * first),
    }


def listing(model: torch.nn.Module, count: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        written(model, Path(folder), 200, "did", count)
        bank = d90.Bank(model, folder)
        names = [seconds(bank.names) for _ in range(rounds)]
        tunes = [seconds(bank.tunes) for _ in range(rounds)]
        assert len(bank.tunes()) == count
    return {
        "tunes": count,
        "names ms": round(1000 * statistics.median(names), 2),
        "headers ms": round(1000 * statistics.median(tunes), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tunes", type=int, default=1000)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--only", choices=("switch", "batch", "many", "generate"))
    given = parser.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    model = models.load("minilm", 2).module
    line: dict[str, Any] = {"processor": processor(), "threads": torch.get_num_threads(), "rounds": given.rounds}
    line |= {"clock": given.clock, "load": round(os.getloadavg()[0], 1)}
    if given.only in (None, "switch"):
        line["switch"] = {name: switches(model, d, kind, given.rounds) for name, (d, kind) in CASES.items()}
        line["listing"] = listing(model, given.tunes, given.rounds)
    if given.only in (None, "batch"):
        told = {"rounds": given.rounds, "load": round(os.getloadavg()[0], 1)}
        line["batch"] = told | mixed(lambda: models.load("minilm", 2).module, given.rounds, clock, READING)
    if given.only in (None, "many"):
        line["many"] = many(lambda: models.load("minilm", 2).module, given.many, clock)
    if given.only == "generate":
        told = {"rounds": given.rounds, "load": round(os.getloadavg()[0], 1)}
        line["generate"] = told | mixed(
            lambda: models.load("smollm2", 0, "language").module, given.rounds, clock, WRITING
        )
    print(json.dumps(line, indent=1))
    out = Path(__file__).with_suffix(".json")
    held = json.loads(out.read_text()) if out.exists() else []
    same = ("processor", "threads", "clock")
    earlier = next((one for one in held if all(one[key] == line[key] for key in same)), {})
    out.write_text(json.dumps(beside(out, earlier | line), indent=1) + "\n")


if __name__ == "__main__":
    main()
