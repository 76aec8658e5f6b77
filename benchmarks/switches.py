"""What library switches do to the model's own training step: minilm on docstrings, forward and backward over the same 768 examples.

One switch at a time against what `d90.train` does on a processor with bf16: eager attention, bf16 autocast,
batches of 32 bucketed by length and padded to their longest, all cores. `by tokens` cuts the same length-sorted examples
into batches of equal padded size. In turn, medians of rounds; "over ours" is the ratio within a round.

    python benchmarks/switches.py [--rounds 5]        writes switches.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from machine import beside, processor
from torch import Tensor

from d90 import tasks
from d90.models import loading as models
from d90.training.batches import Batches, outputs_of

EXAMPLES, BATCH = 768, 32


@dataclass(frozen=True)
class Switches:
    attention: str = "eager"
    bf16: bool = True
    batches: str = "bucketed"
    threads: int = os.cpu_count() or 1


OURS = Switches()
CASES = {
    "ours": OURS,
    "fused attention (sdpa)": replace(OURS, attention="sdpa"),
    "fp32": replace(OURS, bf16=False),
    "fp32, fused attention": replace(OURS, bf16=False, attention="sdpa"),
    "batches in random order": replace(OURS, batches="random"),
    "padded to the longest of all": replace(OURS, batches="padded"),
    "by tokens": replace(OURS, batches="tokens"),
    "one thread": replace(OURS, threads=1),
}


def cut(batches: Batches, how: str) -> Iterable[Tensor]:
    if how in ("random", "padded"):
        return torch.arange(EXAMPLES).split(BATCH)
    order = torch.argsort(batches.lengths[:EXAMPLES], stable=True)
    if how == "bucketed":
        return order.split(BATCH)
    budget = int(batches.lengths[:EXAMPLES].sum()) * BATCH // EXAMPLES
    found, begin = [], 0
    for end in range(1, EXAMPLES + 1):
        if end == EXAMPLES or int(batches.lengths[order[end]]) * (end + 1 - begin) > budget:
            found.append(order[begin:end])
            begin = end
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    task = tasks.load("docstrings")
    loaded = models.load("minilm", task.outputs)
    batches = Batches(loaded, task.train)
    longest = batches.inputs(batches.lengths[:EXAMPLES].argmax()[None])
    took: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(rounds):
        for name, case in CASES.items():
            torch.set_num_threads(case.threads)
            loaded.module.set_attn_implementation(case.attention)  # type: ignore[operator]
            chunks = list(cut(batches, case.batches))
            began = time.perf_counter()
            for chosen in chunks:
                inputs = batches.inputs(chosen)
                assert isinstance(inputs, dict)
                assert isinstance(longest, dict)
                if case.batches == "padded":
                    room = longest["input_ids"].shape[1] - inputs["input_ids"].shape[1]
                    inputs = {key: torch.nn.functional.pad(value, (0, room)) for key, value in inputs.items()}
                with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
                    outputs = outputs_of(loaded.module, inputs, task.kind)
                task.kind.training_loss(outputs, batches.labels[chosen]).backward()
                for parameter in loaded.module.parameters():
                    parameter.grad = None
            took[name].append(time.perf_counter() - began)
    line = {"processor": processor(), "threads": OURS.threads, "rounds": rounds, "load": round(os.getloadavg()[0], 1)}
    over = {
        name: round(statistics.median(a / b for a, b in zip(times, took["ours"], strict=True)), 2)
        for name, times in took.items()
    }
    line |= {"seconds": {n: round(statistics.median(t), 2) for n, t in took.items()}, "over ours": over}
    print(json.dumps(line, indent=1))
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(beside(out, line), indent=1) + "\n")


if __name__ == "__main__":
    main()
