"""Peak memory of a training step above the model's own, BERT-base shapes with random weights.

Each variant runs in a process of its own: the model is made, the resident size noted, three steps are taken, and the peak
resident size is compared. Freed memory is given back to the system at once, so that the peak is what was in use. At a
batch of 4 x 64 tokens the gradients of all weights set the peak of "bare"; at 16 x 64 the activations do.

    python benchmarks/memory.py [--variants bare ...] [--batches 4 16]        writes memory.json, an entry a machine
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from machine import beside, processor, save

VARIANTS = {
    "bare": None,
    "did d=1000": {"d": 1000},
    "did d=1000, keep_theta0=False": {"d": 1000, "keep_theta0": False},
    "said d=1000, keep_theta0=False": {"d": 1000, "keep_theta0": False, "structure": "said"},
    "AdamW": None,
    "peft LoRA r=8": None,
    "did d=1000 over peft LoRA r=8": {"d": 1000},
}


def resident(key: str) -> float:
    """MB: VmRSS (now) or VmHWM (the peak so far)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def run(name: str, batch: int) -> None:
    """One variant, in this process."""
    import torch
    from step import lora, stepper
    from transformers import BertConfig, BertForSequenceClassification

    from d90 import Subspace

    torch.set_num_threads(1)
    model: torch.nn.Module = BertForSequenceClassification(BertConfig()).train()
    if "LoRA" in name:
        model = lora(model)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = resident("VmRSS")
    optimizer: torch.optim.Optimizer | None = None
    took = 0.0
    if VARIANTS[name] is not None:
        began = time.perf_counter()
        space = Subspace(model, **VARIANTS[name])  # type: ignore[arg-type]
        took = time.perf_counter() - began
        optimizer = torch.optim.Adam(space.parameters(), lr=1e-3)
    elif name != "bare":
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5)
    step = stepper(model, optimizer, autocast=False, batch=batch)
    for _ in range(3):
        step()
    line = {
        "step": name,
        "batch": batch,
        "model_mb": round(before),
        "above_model_mb": round(resident("VmHWM") - before),
    }
    print(json.dumps(line | {"set_up_s": round(took, 3), "load": round(os.getloadavg()[0], 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--here", action="store_true", help="run the one variant in this process and print its line")
    arguments = parser.parse_args()
    if arguments.here:
        return run(arguments.variants[0], arguments.batches[0])
    quiet = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    lines = []
    for batch, name in itertools.product(arguments.batches, arguments.variants):
        command = [sys.executable, __file__, "--here", "--variants", name, "--batches", str(batch)]
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=True)
        lines.append(json.loads(done.stdout.splitlines()[-1]))
        print(lines[-1], flush=True)
        result = {"processor": processor(), "threads": 1, "lines": lines}
        save(arguments.output, beside(arguments.output, result, ("step", "batch")))


if __name__ == "__main__":
    main()
