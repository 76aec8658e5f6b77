"""What an evaluated example costs by the rows of its batch, beside a trained one: minilm on sentences, processor time.

OMP_NUM_THREADS=1 python benchmarks/evaluation.py DATA/sst2_sentences [--examples 192] [--rounds 2]        prints JSON
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import torch
from machine import processor

from d90.models.loading import load
from d90.tasks import load as load_task
from d90.training.batches import Batches, outputs_of
from d90.training.evaluation import predict

ROWS = (16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--examples", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    task = load_task(given.task, limit=64, validation_limit=given.examples)
    model = load("minilm", task.outputs)
    seen, trained = (Batches(model, split, task.kind) for split in (task.validation, task.train))
    took: dict[int, list[float]] = {rows: [] for rows in ROWS}
    for turn in range(given.rounds + 1):
        for rows in ROWS:
            began = time.process_time()
            predict(model, seen, "fp32", rows)
            if turn:  # the first warms up
                took[rows].append(time.process_time() - began)
    model.module.train()
    began = time.process_time()
    for chosen in torch.arange(64).split(32):
        outputs = outputs_of(model.module, trained.inputs(chosen, 1), task.kind)
        task.kind.training_loss(outputs, trained.labels[chosen]).backward()
    step = (time.process_time() - began) / 64
    line = {"processor": processor(), "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
    line |= {"examples": len(seen), "tokens": round(seen.lengths.float().mean().item(), 1)}
    line |= {"seconds by rows": {rows: round(statistics.median(times), 2) for rows, times in took.items()}}
    print(json.dumps(line | {"ms an example, trained": round(1000 * step, 1)}, indent=1))


if __name__ == "__main__":
    main()
