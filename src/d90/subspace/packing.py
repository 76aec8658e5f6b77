"""theta in fewer bytes: bf16, or int8 with a scale for each group of 64 numbers (`d90.subspace.file` says how far each rounds)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from d90.errors import InputError, unknown_name
from d90.subspace.header import damaged

__all__ = ["DTYPES", "check_dtype", "finite", "pack", "unpack"]

DTYPES = ("fp32", "bf16", "int8")
GROUP = 64  # numbers that share a scale in int8


def check_dtype(dtype: str, subspace: bool) -> None:
    """Refuse a dtype that a file of a subspace, or of parameters trained as they are, cannot have.

    Raises:
        InputError: an unknown one, or one that rounds parameters trained as they are.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if dtype != "fp32" and not subspace:
        raise InputError(
            f"got dtype={dtype} for parameters trained as they are, expected fp32: only theta of a subspace is rounded. "
            "Train in a subspace (--d), or leave it out"
        )


def pack(theta: Tensor, dtype: str) -> dict[str, Tensor]:
    """theta (d,) as the tensors that hold it."""
    check_dtype(dtype, subspace=True)
    if dtype == "fp32":
        return {"theta": theta}
    narrow = theta.to(torch.bfloat16)
    if not finite(narrow):
        raise InputError(f"dtype='{dtype}': theta holds NaN, infinity, or numbers too large; expected finite numbers")
    if dtype == "bf16":
        return {"theta": narrow}
    groups = torch.nn.functional.pad(theta, (0, -len(theta) % GROUP)).view(-1, GROUP)
    # below the smallest normal number 1 / s would be infinite, and below any use the numbers are
    scales = (groups.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    q = (groups / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
    return {"theta": q.view(-1)[: len(theta)].clone(), "scales": scales}


def unpack(tensors: dict[str, Tensor], target: Path) -> None:
    """Put theta back into fp32, in place of what holds it."""
    theta = tensors.get("theta")
    if theta is None or theta.dtype not in (torch.bfloat16, torch.int8):
        return
    if theta.dtype == torch.bfloat16:
        tensors["theta"] = theta.float()
        return
    scales = tensors.pop("scales", None)
    if (
        theta.dim() != 1
        or scales is None
        or scales.dtype != torch.float32
        or scales.shape != (-(-len(theta) // GROUP),)
    ):
        raise damaged(target, f"its int8 theta of shape {tuple(theta.shape)} lacks one scale for each {GROUP} numbers")
    numbers, whole = theta.float(), len(theta) // GROUP
    numbers[: whole * GROUP].view(-1, GROUP).mul_(scales[:whole, None])  # in place: no second copy of theta
    numbers[whole * GROUP :].mul_(scales[whole:])
    tensors["theta"] = numbers


def finite(tensor: Tensor) -> bool:
    """Whether every number is finite."""
    # in parts: isfinite makes copies of what it is given
    return all(bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(1 << 18))
