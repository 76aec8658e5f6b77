"""Rows of one batch each under its own tune: rows/s over the base's, beside switching and beside peft's mixed batches.

Batches of 32 rows with 1, 4 and 32 distinct tunes of lora:r=8@d=1000: `READING`, forward passes over 64 tokens on minilm, and `WRITING`,
greedy generation of 8 tokens behind 4 with SmolLM2. A turn of ours opens the batch (`with bank.batch(names)`) and runs it. Switching
writes each tune of full@d=1000 and runs its rows. peft has an adapter a tune (r = 8, the same layers) and takes `adapter_names`. All in
turn within a round; the medians of the ratios within rounds. Beside them what 10,000 tunes of d = 1,000 cost: opening, memory, and the
first use of a tune.
"""

from __future__ import annotations

import statistics
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import d90
from d90.methods import parse
from d90.methods.applied import apply
from d90.subspace import file as tune_file

__all__ = ["READING", "WRITING", "many", "mixed"]

ROWS, DISTINCT = 32, (1, 4, 32)
METHOD = "lora:r=8@d=1000"


@dataclass(frozen=True)
class Work:
    """What is done to a batch: one forward pass, or greedy generation of `new` tokens.

    Attributes:
        tokens: of each row.
        layers: those that the tunes change, by the ends of their names, as peft takes them.
        most_switches: batches of more tunes are not switched through: it takes minutes.
    """

    tokens: int
    new: int
    layers: Sequence[str]
    most_switches: int = max(DISTINCT)

    def __call__(self, model: Any, inputs: torch.Tensor, **options: Any) -> None:
        if not self.new:
            model(input_ids=inputs, **options)
            return
        mask = torch.ones_like(inputs)
        new = {"max_new_tokens": self.new, "min_new_tokens": self.new, "do_sample": False, "pad_token_id": 0}
        made = model.generate(input_ids=inputs, attention_mask=mask, **new, **options)
        assert made.shape == (len(inputs), self.tokens + self.new)


READING = Work(64, 0, ("query", "value"))
WRITING = Work(4, 8, ("q_proj", "v_proj"), most_switches=4)


def mixed(make: Callable[[], nn.Module], rounds: int, clock: Callable[[], float], work: Work) -> dict[str, Any]:
    """Rows/s over the base's, by the number of distinct tunes."""
    model = make().eval()
    inputs = torch.randint(1000, 20000, (ROWS, work.tokens), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as low, tempfile.TemporaryDirectory() as full, torch.no_grad():
        write_tunes(model, Path(low), METHOD, max(DISTINCT))
        write_tunes(model, Path(full), "full@d=1000", max(DISTINCT))
        bank = d90.Bank(model, low, method=METHOD)
        plain = make().eval()
        switched = d90.Bank(plain, full)
        theirs = with_peft(make().eval(), max(DISTINCT), work.layers)
        ways: dict[str, Callable[[], object]] = {"base": lambda: work(model, inputs)}
        for k in DISTINCT:
            names = [f"t{i % k:05}" for i in range(ROWS)]
            ways[f"bank, {k}"] = lambda names=names: _batch(bank, names, inputs, work)  # type: ignore[misc]
            if k <= work.most_switches:
                ways[f"switching, {k}"] = lambda k=k: _switching(switched, k, inputs, work)  # type: ignore[misc]
            ways[f"peft, {k}"] = lambda names=names: work(theirs, inputs, adapter_names=names)  # type: ignore[misc]
        took: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, act in ways.items():
                began = clock()
                act()
                if turn:  # the first warms up
                    took[name].append(clock() - began)
        bank_ms = {k: round(1000 * statistics.median(took[f"bank, {k}"]), 1) for k in DISTINCT}
    share = {
        name: round(statistics.median(base / own for base, own in zip(took["base"], times, strict=True)), 2)
        for name, times in took.items()
        if name != "base"
    }
    return {"base ms": round(1000 * statistics.median(took["base"]), 1), "bank ms": bank_ms, "rows/s over base": share}


def many(make: Callable[[], nn.Module], count: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Opening `count` tunes of d = 1,000, the memory that this takes, and the first use of further tunes once one of them was used."""
    model = make().eval()
    with tempfile.TemporaryDirectory() as folder:
        write_tunes(model, Path(folder), METHOD, count)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        began = clock()
        bank = d90.Bank(model, folder, method=METHOD)
        opened = clock() - began
        cold = []
        for i in range(21):
            began = clock()
            with bank.batch([f"t{i:05}"]):
                cold.append(clock() - began)
        tracemalloc.start()
        again = d90.Bank(model, folder, method=METHOD)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(again.names()) == count
    return {
        "tunes": count, "open s": round(opened, 2), "memory MB": round(held / 1e6, 1), "files MB": round(size / 1e6, 1),
        "first of a kind ms": round(1000 * cold[0]), "cold ms": round(1000 * statistics.median(cold[1:]), 1),
    }  # fmt: skip


def write_tunes(model: nn.Module, folder: Path, method: str, count: int) -> None:
    """`count` tunes of random numbers."""
    applied = apply(parse(method), model)
    space: Any = applied.trained
    header = space.header()
    applied.release()
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        tune_file.write(folder / f"t{i:05}.d90", header, {"theta": 0.01 * torch.randn(space.d, generator=generator)})


def with_peft(model: nn.Module, count: int, layers: Sequence[str]) -> nn.Module:
    """The model with `count` adapters of peft, over the layers that `METHOD` takes."""
    import peft

    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=list(layers), init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config, adapter_name="t00000")
    for i in range(1, count):
        wrapped.add_adapter(f"t{i:05}", config)
    return wrapped.eval()


def _batch(bank: d90.Bank, names: list[str], inputs: torch.Tensor, work: Work) -> None:
    with bank.batch(names) as model:
        work(model, inputs)


def _switching(bank: d90.Bank, k: int, inputs: torch.Tensor, work: Work) -> None:
    for i in range(k):
        work(bank.use(f"t{i:05}"), inputs[i::k])
