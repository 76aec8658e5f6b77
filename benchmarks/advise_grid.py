"""A grid of ranks and learning rates that `benchmarks/advise_replay.py` replays advice on: every whole run and its early reading.

    python benchmarks/advise_grid.py MODELS DATA [e2e|sst2|qqp] [--part I/N]
        MODELS holds stories260k/, DATA holds e2e/, sst2_sentences/ and qqp/ (jsonl.gz)

A Llama of 260,032 weights, LoRA on all linear layers with alpha = r, ranks 1 ... 32 (its key matrices have 32 outputs, so no more), rates
in factors of sqrt 3, two seeds, 128 steps of 4 examples; the reading is of the whole schedule after an eighth of the steps, at every
rate, and the whole runs are those of the seven rates nearest to .02 r^-1/2 (the others' readings are far worse). e2e:
completions of E2E's pairs of at most 140 characters; sst2: SST-2's sentences as documents; qqp: a question's equal, as completion of the
question, at most 140 characters both. A line a run in advise_grid.jsonl: the losses
of reading and end in nats, and each of the validation examples' (packed). Started again, it goes on.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from d90.methods import parse
from d90.options import TaskOptions, TrainingOptions, from_fields
from d90.training.loop import open_task
from d90.training.recipe import make_recipe
from d90.training.result import TrialResult
from d90.trials.options import RunOptions
from d90.trials.predictions import pack
from d90.trials.request import TrialRequest
from d90.trials.runner import TrialRunner
from d90.trials.store import Store

ROWS = Path(__file__).with_name("advise_grid.jsonl")
RANKS = (1, 2, 4, 8, 16, 32)
RUNGS = range(-1, 10)  # a rate is BASE * 3 ** (rung / 2)
WHOLE = 3.25  # rungs from the ridge within which runs go to their end
BASE = 1e-3
SEEDS = 2
READING = 1 / 8
TRAIN, VALIDATION = 512, 160
PAIRS = {"e2e": ("mr", "ref"), "qqp": ("text_a", "text_b")}  # the columns of prompt and completion
OPTIONS: dict[str, Any] = {
    "epochs": 1, "batch_size": 4, "evaluations": 1, "precision": "fp32", "train_limit": TRAIN, "validation_limit": VALIDATION,
}  # fmt: skip


def rate(rung: int) -> float:
    """The rate of a rung, as it is trained."""
    return float(f"{BASE * 3 ** (rung / 2):.3g}")


def far(r: int, rung: int) -> float:
    """How many rungs a rate lies from .02 r^-1/2."""
    return abs(rung - 2 * math.log(0.02 / BASE / math.sqrt(r), 3))


def cells() -> Iterator[tuple[int, int, int]]:
    """(rank, rung, seed), the likeliest first."""
    near = sorted(((r, rung) for r in RANKS for rung in RUNGS), key=lambda cell: far(*cell))
    yield from ((r, rung, seed) for seed in range(SEEDS) for r, rung in near)


def folder_of(data: Path, name: str, where: Path) -> tuple[str, dict[str, str]]:
    """The task's folder, and its columns."""
    if name == "sst2":
        return str(data / "sst2_sentences"), {"kind": "language", "text": "text"}
    prompt, completion = PAIRS[name]
    for part, count in (("train", TRAIN), ("validation", VALIDATION)):
        with gzip.open(data / name / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [row for row in map(json.loads, file) if row.get("label", 1) == 1]
        pairs = [(row[prompt], row[completion]) for row in rows if len(row[prompt]) + len(row[completion]) <= 140]
        lines = [json.dumps({"prompt": f"{one} =>", "completion": f" {other}"}) for one, other in pairs[:count]]
        (where / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(where), {}


def main() -> None:
    """Train what is missing of one task's grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("task", nargs="?", default="e2e", choices=(*PAIRS, "sst2"))
    parser.add_argument("--part", default="1/1")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    done = set()
    if ROWS.exists():
        rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
        done = {(row["task"], row["r"], row["rung"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        where, columns = folder_of(given.data, given.task, Path(name))
        model = str(given.models / "stories260k")
        recipe = make_recipe(
            model, where, parse("full"), *from_fields({**OPTIONS, "columns": columns}, TrainingOptions(), TaskOptions())
        )
        store = Store(Path(name) / "s.sqlite")
        runner = TrialRunner(model, open_task(where, recipe), recipe, RunOptions(store=store))
        for i, (r, rung, seed) in enumerate(cells()):
            if i % parts != part - 1 or (given.task, r, rung, seed) in done:
                continue
            spec = parse(f"lora:r={r},targets=all")
            whole = replace(recipe, method=str(spec), lr=rate(rung), seed=seed)
            ask = TrialRequest(spec, replace(whole, until=READING), predictions=True, pause=True)
            (early,) = runner.run([ask])
            row = {
                "task": given.task,
                "r": r,
                "rung": rung,
                "lr": rate(rung),
                "seed": seed,
                "base": -early.zero_score,
            }
            row |= {"reading": _loss(early), "trained": early.trained}
            if far(r, rung) <= WHOLE:
                (late,) = runner.run([ask.whole])
                losses = runner.predictions(whole).astype("float32")
                row |= {"loss": _loss(late), "score": -late.score, "seconds": round(late.seconds, 1)}
                row["losses"] = base64.b64encode(pack(losses)).decode()
            runner.drop_paused([ask])
            with ROWS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(given.task, r, rung, seed, row["reading"], row.get("loss"), flush=True)


def _loss(result: TrialResult) -> float | None:
    """The loss at the end; None where the run diverged."""
    return None if result.last_loss is None else round(result.last_loss, 5)


if __name__ == "__main__":
    main()
