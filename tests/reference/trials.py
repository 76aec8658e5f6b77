"""A model and a task that a worker opens by name, and a store's trials without their times."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from tests.reference.blobs import blobs

__all__ = ["MODEL", "QUICK", "idx_folder", "rows"]

MODEL = "mlp:16-32-3"
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 32, "evaluations": 2, "lr": 0.01}


def idx_folder(folder: Path) -> str:
    """The blobs of the other tests as idx files: a task that a worker can open by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    task = blobs(noise=1.0)
    for prefix, split in (("train", task.train), ("t10k", task.validation)):
        assert isinstance(split.inputs, torch.Tensor)
        images = (split.inputs.squeeze(1) * 30 + 128).clamp(0, 255).to(torch.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", split.labels.to(torch.uint8))):
            head = bytes((0, 0, 8, values.dim())) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (folder / f"{prefix}-{name}-ubyte").write_bytes(head + values.numpy().tobytes())
    return f"idx:{folder}"


def rows(path: Path) -> set[tuple[Any, ...]]:
    """Everything of a store's trials that does not say when, or how long."""
    with closing(sqlite3.connect(path)) as db, db:
        found = db.execute(
            "SELECT t.key, t.stop_at, t.d, t.seed, t.score, t.status, t.recipe, json_extract(t.outcome, '$.curve'), "
            "json_extract(t.outcome, '$.train_loss'), json_extract(t.outcome, '$.test'), t.context, t.predictions FROM trials t"
        ).fetchall()
    db.close()
    assert found
    return set(found)
