"""The tiny file: a safetensors file with few tensors and one line of metadata.

A tune of d = 200 numbers is one tensor `theta` of 800 bytes and a header of some 200. The metadata is one string of
fields joined by "|": the format, the fields of `Header` in their order (16 hex digits, and long seeds, as "~" and 11
characters of base64), and a checksum; JSON inside the JSON header would double its size. The checksum is the first 8
hex digits of the SHA-256 of the whole file with zeros in their place.

    format 1   no checksum; `base` is a hash of the weights rounded to bf16
    format 2   with a checksum
    format 3   `base` is the digest of weights, tokenizer, config and buffers; the tokenizer's part stands beside it

All three are read. The tokenizer's part is in the file so that a loader which has the module alone can check the rest.

theta may be stored in fewer bytes; what is loaded is fp32 again, bit for bit the same everywhere.

    fp32   as trained
    bf16   half the bytes; each number within 2^-8 of itself
    int8   a quarter: groups of 64 numbers, q = round(theta / s) with s = max |theta| / 127 of the group, the s in a
           second tensor `scales`; each number within s / 2

On a Gaussian theta the error's norm is 0.2 % of theta's in bf16 and 0.6 % in int8. The other tensors stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.files import write_bytes
from d90.subspace.fingerprint import Base, base_of, earlier_weights
from d90.subspace.header import (
    FORMAT,
    LINE,
    NO_CHECK,
    NO_PART,
    About,
    Header,
    about,
    damaged,
    open_header,
    shorter,
    source,
)
from d90.subspace.options import STEP_RULES, STRUCTURES
from d90.subspace.packing import DTYPES, check_dtype, finite, pack, unpack

__all__ = [
    "DTYPES",
    "FORMAT",
    "About",
    "Header",
    "about",
    "check_base",
    "check_dtype",
    "encode",
    "other_base",
    "read",
    "same_base",
    "theta_of",
    "write",
]


def write(path: str | os.PathLike[str], header: Header, tensors: Mapping[str, Tensor], dtype: str = "fp32") -> None:
    """Write a tune; the file appears whole or not at all. `dtype` is what `theta` is stored in.

    Raises:
        InputError: an unknown dtype, a field that one line cannot hold, a theta that is not finite in bf16 or int8.
        RunFailed: the disk is full, or the folder cannot be written; what was there is untouched.
    """
    write_bytes(path, encode(header, tensors, dtype))


def encode(header: Header, tensors: Mapping[str, Tensor], dtype: str = "fp32") -> bytes:
    """The bytes of a tune.

    Raises:
        InputError: as `write`.
    """
    from safetensors.torch import save

    values = [_text(name, getattr(header, name)) for name in LINE]
    wrong = next((value for value in values if not re.fullmatch(r"[\w:.+-]*", value, re.ASCII)), None)
    if wrong is not None:
        raise InputError(f"got '{wrong}' for the file's metadata, expected letters, digits and _ : . + - alone")
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    if "theta" in stored and header.structure != "direct":
        stored |= pack(stored.pop("theta"), dtype)
    payload = save(stored, metadata={"d90": "|".join([str(FORMAT), *map(shorter, values), NO_CHECK])})
    check = hashlib.sha256(payload).hexdigest()[:8]
    payload = payload.replace(f'|{NO_CHECK}"'.encode(), f'|{check}"'.encode(), 1)
    return payload


def read(path: str | os.PathLike[str], data: bytes | None = None) -> tuple[Header, dict[str, Tensor]]:
    """Read a tune: sizes and shapes are checked against the file's length before anything is allocated.

    `data` are the file's bytes, where they were read before; `path` then names it in errors alone.

    Raises:
        InputError: no such file, not a d90 file, truncated or altered bytes, or a newer format.
    """
    target = Path(path)
    opened = open_header(target, data)
    digest = hashlib.sha256(opened.sealed)
    tensors = {}
    with source(target, data) as file:
        file.seek(opened.start)
        for name, (dtype, shape, low, high) in sorted(opened.entries.items(), key=lambda item: item[1][2:]):
            buffer = bytearray(high - low)
            if file.readinto(buffer) != high - low:
                raise damaged(target, "it ends early")
            digest.update(buffer)
            flat = torch.frombuffer(buffer, dtype=_TYPES[dtype]) if buffer else torch.empty(0, dtype=_TYPES[dtype])
            tensors[name] = flat.reshape(shape)
    if opened.check and digest.hexdigest()[:8] != opened.check:
        raise damaged(target, f"its bytes have checksum {digest.hexdigest()[:8]}, its header says {opened.check}")
    if opened.header.structure != "direct":
        unpack(tensors, target)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not finite(tensor):
            raise InputError(
                f"'{target}': tensor '{name}' holds NaN or infinity; the file is damaged, or its training diverged"
            )
    return opened.header, tensors


def theta_of(header: Header, tensors: dict[str, Tensor], path: object) -> Tensor:
    """theta (d,) of a file that was read.

    Raises:
        InputError: not the tune of a subspace that this d90 knows.
    """
    if header.structure not in STRUCTURES or "theta" not in tensors or header.step_rule not in STEP_RULES:
        raise InputError(f"'{path}' is not the tune of a subspace that this d90 knows (structure '{header.structure}')")
    theta = tensors["theta"]
    if theta.dim() != 1 or theta.dtype != torch.float32:
        raise InputError(f"'{path}': got theta of shape {tuple(theta.shape)} and {theta.dtype}, expected (d,) in fp32")
    return theta


def same_base(header: Header, model: nn.Module, path: object) -> None:
    """Refuse a file that was trained on another base model than `model`, as it stands.

    Raises:
        InputError: another base: which of its parts differ, as far as a file alone can tell.
    """
    check_base(header, base_of(model) if header.format > 2 else earlier_weights(model.named_parameters()), path)


def check_base(header: Header, found: Base | str, path: object) -> None:
    """Refuse a file whose base is not the one with this fingerprint: a `Base`, or text for a file of format 1 or 2.

    Raises:
        InputError: another base.
    """
    if isinstance(found, str):
        parts = ["weights"] if found != header.base else []
    else:
        noted = NO_PART not in (header.tokenizer, found.tokenizer) and header.tokenizer != found.tokenizer
        parts = ["tokenizer"] if noted else []
        found = replace(found, tokenizer=header.tokenizer)  # a module may come without its tokenizer
        parts += ["weights, config or buffers"] if found.digest != header.base else []
    if parts:
        raise other_base(path, parts, header.base, found if isinstance(found, str) else found.digest)


def other_base(path: object, parts: Sequence[str], wanted: str, found: str) -> InputError:
    """The error for a tune of another base: which parts differ, and both fingerprints."""
    return InputError(
        f"'{path}': the tune was trained on another base model, with other {' and other '.join(parts)}: fingerprint {wanted}, "
        f"this model has {found}. Load the model named in the recipe beside the file as it was then, with the same seed for "
        "the weights that come from no checkpoint"
    )


_TYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "F64": torch.float64,
    "I8": torch.int8,
}


def _text(name: str, value: object) -> str:
    """A field as text; a seed of 10^12 and more in hex, which `shorter` makes 12 characters of."""
    return f"{value:016x}" if name == "seed" and isinstance(value, int) and value >= 10**12 else str(value)
