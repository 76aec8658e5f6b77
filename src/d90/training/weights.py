"""What a language model's weights are held in: fp32, bf16, or four bits; and which methods can train over each.

bf16    half the memory. A subspace writes it with dithered rounding; what a method adds stays in fp32. Weights trained as they are
        would lose steps smaller than 1/256 of themselves, and are refused.
4bit    a quarter of that (bitsandbytes' NF4, on a GPU). Packed weights stay as they are: only methods that add their own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from d90.errors import InputError
from d90.methods import Combined, Method, Spec
from d90.methods.base import Inserting
from d90.models.loading import count_weights
from d90.options import TrainingOptions
from d90.options.base import Weights
from d90.tasks import Task, TaskKind
from d90.training.device import best_device
from d90.training.recipe import suited

__all__ = ["check_weights", "memory", "settle", "settled_weights"]

SHARE = 0.5  # of the memory, for weights and optimizer


def check_weights(weights: Weights, spec: Spec, kind: TaskKind) -> None:
    """Refuse weights that a method cannot train over, or a machine cannot hold.

    Raises:
        InputError: which, and what to take instead.
    """
    if weights == "fp32":
        return
    if not kind.generative:
        raise InputError(
            f"got weights={weights} for a {kind.name}, expected fp32: other weights are for language models"
        )
    plain = [part for part in _parts(spec.method) if not isinstance(part, Inserting)]
    moving = next((part for part in _parts(spec.method) if not part.over_packed), None)
    if moving is not None and weights == "4bit":
        raise InputError(
            f"got weights=4bit with '{moving}', which moves the base's own weights, and packed integers cannot move; expected a method "
            "that adds weights, as lora:r=8 or a subspace over it"
        )
    if plain and spec.space is None:
        raise InputError(
            f"got weights=bf16 with '{plain[0]}', whose steps would be lost in the weights' rounding; expected weights=fp32, a method "
            f"that adds weights (lora:r=8), or a subspace ({plain[0].name}@d=1000)"
        )
    if weights == "4bit" and not (torch.cuda.is_available() and find_spec("bitsandbytes")):
        lacks = "a GPU" if not torch.cuda.is_available() else "bitsandbytes (pip install bitsandbytes)"
        raise InputError(f"got weights=4bit, which needs {lacks}; expected weights=bf16 here")


def _parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Combined) else (method,)


def settled_weights(
    asked: Weights, model: object, specs: Sequence[Spec], kind: TaskKind, device: str, have: int | None = None
) -> tuple[Weights, str]:
    """(fp32, bf16 or 4bit, what to say about it): "auto" is fp32 where weights and optimizer fit in half the memory, else bf16.

    Args:
        asked: by the user.
        model: its name; one given as an object has its weights.
        specs: the methods that will train over them, all over the same.
        device: where they will be trained.
        have: bytes of memory there; by default what the machine has.
    """
    if asked != "auto":
        return asked, ""
    plain = [any(not isinstance(part, Inserting) for part in _parts(spec.method)) for spec in specs]
    direct = any(own and spec.space is None for own, spec in zip(plain, specs, strict=True))
    if not kind.generative or not isinstance(model, str) or direct:
        return "fp32", ""
    count = count_weights(model, kind)
    have = memory(device) if have is None else have
    # a subspace over the weights keeps the base's beside them
    needed = (count or 0) * 4 * (2 if any(plain) else 1)
    if needed <= SHARE * have:
        return "fp32", ""
    return "bf16", (
        f"weights bf16: in fp32 they take {needed / 1e9:.1f} GB, more than half of the memory ({have / 1e9:.1f} GB); --weights fp32 "
        "holds them so all the same"
    )


def settle(
    training: TrainingOptions, methods: Sequence[str | Spec], task: Task, model: object, device: str | None = None
) -> tuple[list[Spec], Weights, str]:
    """(the methods as they are meant for the task, what the base's weights are held in under all of them, what to say about it).

    Raises:
        InputError: as `check_weights`.
    """
    specs = [suited(method, task.kind) for method in methods]
    weights, note = settled_weights(training.weights, model, specs, task.kind, device or best_device())
    for spec in specs:
        check_weights(weights, spec, task.kind)
    return specs, weights, note


def memory(device: str) -> int:
    """Bytes of memory: of the GPU, or of the machine, where its container allows less, that."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(whole, int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):
            continue
    return whole
