"""What storing theta in bf16 or int8 costs: one trained tune, written in each dtype, opened from its file and scored.

minilm on docstrings is trained once for each d (`--tune` takes tunes that are trained already). `change` is the largest change
of an output against fp32's, `other answers` how many validation examples get another class, `theta` the relative error of theta.

    python benchmarks/dtypes.py [--dims 1000,16000] [--train-limit 2000]        writes dtypes.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import beside, processor

import d90
from d90 import tasks
from d90.subspace import file as tune_file
from d90.training.batches import Batches
from d90.training.loading import open_tune
from d90.training.loop import predict
from d90.training.record import read_record


def rows_of(path: Path) -> list[dict[str, Any]]:
    record = read_record(path)
    recipe, precision = record.recipe, record.outcome.precision
    task = tasks.load(recipe.task, limit=recipe.train_limit, validation_limit=recipe.validation_limit, **recipe.columns)
    header, tensors = tune_file.read(path)
    theta, rows = tensors["theta"], []
    exact: torch.Tensor | None = None
    for dtype in tune_file.DTYPES:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "task.d90"
            tune_file.write(copy, header, tensors, dtype)
            shutil.copyfile(path.with_suffix(".json"), copy.with_suffix(".json"))
            tuned = open_tune(copy)
            size, stored = copy.stat().st_size, tune_file.read(copy)[1]["theta"]
        batches = Batches(tuned.model, task.validation)
        outputs = predict(tuned.model, batches, precision)
        exact = outputs if exact is None else exact
        rows.append(
            {
                "model": recipe["model"],
                "task": recipe["task"],
                "method": recipe["method"],
                "d": len(theta),
                "dtype": dtype,
                "bytes": size,
                task.metric: round(task.score(outputs), 4),
                "loss": round(task.loss(outputs, batches.labels).item(), 5),
                "examples": len(batches),
                "other answers": int((outputs.argmax(1) != exact.argmax(1)).sum()),
                "change": round((outputs - exact).abs().max().item(), 5),
                "theta": round(((stored - theta).norm() / theta.norm()).item(), 5),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dims", default="1000,16000")
    parser.add_argument("--train-limit", type=int, default=2000)
    parser.add_argument("--validation-limit", type=int, default=None)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--tune", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = list(given.tune)
        for d in [] if paths else map(int, given.dims.split(",")):
            run = d90.train(
                "minilm",
                "docstrings",
                d=d,
                epochs=given.epochs,
                train_limit=given.train_limit,
                validation_limit=given.validation_limit,
                max_length=given.max_length,
                evaluations=2,
            )
            paths.append(Path(folder) / f"{d}.d90")
            run.save(paths[-1])
            run.release()
            print(f"trained d = {d}: {run.outcome.score:.4f} in {run.outcome.seconds:.0f} s", flush=True)
        for path in paths:
            rows += rows_of(path)
    line = {"processor": processor(), "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
    given.out.write_text(json.dumps(beside(given.out, line | {"rows": rows}), indent=1) + "\n")


if __name__ == "__main__":
    main()
