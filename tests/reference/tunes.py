"""Tunes of random numbers with their records, as training writes them, and the model that carries one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from d90.methods import parse
from d90.methods.applied import AppliedMethod, apply, load
from d90.subspace.fingerprint import base_of
from d90.training.recipe import Recipe
from d90.training.record import save_pair, sealed

__all__ = ["alone", "put_tune"]


def put_tune(folder: Path, name: str, model: nn.Module, method: str, seed: int = 0, size: float = 0.3) -> None:
    """Write NAME.d90 and NAME.json: the method on `model`, moved by numbers drawn from the name. `model` is given back."""
    base = base_of(model)
    applied = apply(parse(method), model, seed)
    generator = torch.Generator().manual_seed(sum(map(ord, name)) + seed)
    with torch.no_grad():
        for parameter in applied.trained.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    applied.trained.flush()
    record = {
        "d90": "0",
        "recipe": Recipe("base", "task", method=method, seed=seed).to_dict(),
        "outcome": {"precision": "fp32", "score": 0.5},
        "task": {"kind": "classification", "labels": [], "metric": "accuracy", "texts": 1, "fingerprint": "-", "notes": []},
        "base": base.to_dict(),
        "fresh": [],
    }  # fmt: skip
    save_pair(folder / f"{name}.d90", sealed(record), lambda path, recipe: applied.save(path, recipe))
    applied.release()


def alone(folder: Path, name: str, model: nn.Module, method: str, seed: int = 0) -> AppliedMethod:
    """The tune laid over `model`, as `d90 predict` does it."""
    return load(parse(method), folder / f"{name}.d90", model, seed)
