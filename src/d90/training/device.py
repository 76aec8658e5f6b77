"""Where models opened by their names are trained: the device that was asked for, else a GPU, else the processor."""

from __future__ import annotations

import os

import torch

from d90.errors import InputError

__all__ = ["DEVICE", "best_device", "check_device"]

DEVICE = "D90_DEVICE"  # the environment's variable that `--device` sets, so that the processes of a study follow


def best_device() -> str:
    """What `D90_DEVICE` names, else "cuda" where torch sees a GPU (CUDA_VISIBLE_DEVICES= hides it), else "cpu".

    Raises:
        InputError: `D90_DEVICE` names a device that is not here.
    """
    asked = os.environ.get(DEVICE, "")
    if asked:
        return check_device(asked)
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> str:
    """The name of a device that is here.

    Raises:
        InputError: no such device; with those that are here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name not in here:
        raise InputError(f"got device '{name}', expected one that torch sees on this machine: {', '.join(here)}")
    return name
