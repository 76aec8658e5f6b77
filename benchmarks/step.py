"""What does a training step in a subspace cost beside the bare forward and backward pass of the same model?

MiniLM (embedded; 22.7 million weights), batches of 16 texts of 64 tokens, fp32 and bf16 autocast. Every variant has its own
copy of the model; one step of each is taken in turn, in an order drawn anew each round, and the ratios of a round are taken
to the bare step of that round; the table shows their medians and quartiles. "bare" zeroes gradients and takes no optimizer
step, so a ratio of 1.02 is 2 % for the hooks, the projection both ways and Adam over theta together.

    python benchmarks/step.py [--rounds 40] [--bf16]        writes step.json; on the GPU where there is one

bf16 is left out on a processor without units for it, where a step takes ten times as long; --bf16 measures it all the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from machine import beside, processor
from torch import nn

from d90 import Subspace
from d90.models import loading as models
from d90.projections import kernels
from d90.training.device import best_device
from d90.training.recipe import bf16_is_fast

Step = Callable[[], None]


def stepper(model: nn.Module, optimizer: torch.optim.Optimizer | None, autocast: bool, batch: int = 16) -> Step:
    """One training step on fixed random tokens."""
    draw, device = torch.Generator().manual_seed(0), next(model.parameters()).device
    ids = torch.randint(1000, 29000, (batch, 64), generator=draw).to(device)
    labels, mask = torch.randint(0, 2, (batch,), generator=draw).to(device), torch.ones_like(ids)

    def step() -> None:
        context: AbstractContextManager[object] = nullcontext()
        if autocast:
            context = torch.autocast(device.type, torch.bfloat16)
        with context:
            logits = model(input_ids=ids, attention_mask=mask).logits
        nn.functional.cross_entropy(logits.float(), labels).backward()
        if optimizer is not None:
            optimizer.step()
        for parameter in model.parameters():
            parameter.grad = None
        if optimizer is not None:
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def subspace(model: nn.Module, autocast: bool, **options: object) -> Step:
    """Adam over the d numbers of a subspace of `model`."""
    space = Subspace(model, **options)  # type: ignore[arg-type]
    return stepper(model, torch.optim.Adam(space.parameters(), lr=1e-3), autocast)


def lora(model: nn.Module) -> nn.Module:
    """`peft`'s LoRA, r = 8 on all linear layers."""
    import peft

    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="SEQ_CLS")
    return peft.get_peft_model(model, config)  # type: ignore[arg-type]


def variants(base: nn.Module, autocast: bool) -> dict[str, Step]:
    """The steps to compare, each over a model of its own."""

    def fresh() -> nn.Module:
        return copy.deepcopy(base)

    def adamw(**options: bool) -> Step:
        model = fresh()
        return stepper(model, torch.optim.AdamW(model.parameters(), lr=1e-5, **options), autocast)

    plain, under = lora(fresh()), lora(fresh())
    trained = [p for p in plain.parameters() if p.requires_grad]
    return {
        "bare": stepper(fresh(), None, autocast),
        "did d=1000": subspace(fresh(), autocast, d=1000),
        "did d=1000, keep_theta0=False": subspace(fresh(), autocast, d=1000, keep_theta0=False),
        "did d=1000, gaussian": subspace(fresh(), autocast, d=1000, projection="fastfood:gaussian"),
        "said d=1000": subspace(fresh(), autocast, d=1000, structure="said"),
        "did d=100000": subspace(fresh(), autocast, d=100_000),
        "AdamW, foreach": adamw(foreach=True),
        "AdamW, fused": adamw(fused=True),
        "peft LoRA r=8": stepper(plain, torch.optim.AdamW(trained, lr=1e-5), autocast),
        "did d=1000 over peft LoRA r=8": subspace(under, autocast, d=1000),
    }


def compare(steps: dict[str, Step], rounds: int) -> list[dict[str, object]]:
    """Ratios to the bare step of the same round."""
    for step in steps.values():
        step()
        step()
    order, draw = list(steps), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            began = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - began)
    lines: list[dict[str, object]] = []
    for name, took in times.items():
        ratios = [a / b for a, b in zip(took, times["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append({"step": name, "over_bare": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]})
        lines[-1] |= {"median_ms": round(1e3 * statistics.median(took), 1), "fastest_ms": round(1e3 * min(took), 1)}
        lines[-1]["of_medians"] = round(statistics.median(took) / statistics.median(times["bare"]), 3)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--bf16", action="store_true", default=bf16_is_fast(best_device()), help="also where it is slow"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = models.load("minilm", 2).module.train().to(best_device())
    result: dict[str, object] = {"processor": processor(), "threads": arguments.threads, "path": kernels.active()}
    if best_device() == "cuda":
        result |= {"processor": torch.cuda.get_device_name(), "path": "triton"}
    for name, autocast in [("fp32", False), ("bf16 autocast", True)][: 1 + arguments.bf16]:
        lines = compare(variants(base, autocast), arguments.rounds)
        result[name] = lines
        result[f"load, {name}"] = round(os.getloadavg()[0], 1)
        print(f"{name}\n{'':34}{'over bare':>10}{'quartiles':>16}{'median ms':>11}")
        for line in lines:
            print(
                f"{line['step']:34}{line['over_bare']:>10}{line['quartiles']!s:>16}{line['median_ms']:>11}", flush=True
            )
        arguments.output.write_text(json.dumps(beside(arguments.output, result), indent=1) + "\n")


if __name__ == "__main__":
    main()
