"""The tiny file: a safetensors file with few tensors and one line of metadata. Knows nothing of models.

A tune of d = 200 numbers is one tensor `theta` of 800 bytes and a header of some 200. The metadata is one string of
fields joined by "|", in the order of `Header`: JSON inside the JSON header would double its size.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from d90.errors import InputError

__all__ = ["FORMAT", "Header", "read", "write"]

FORMAT = 1
HEADER_LIMIT = 1 << 20  # bytes; ours take some 200 plus 100 for each tensor
MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class Header:
    """What loading needs besides the numbers.

    Attributes:
        structure: "did" or "said" for a subspace, "direct" for parameters trained as they are.
        projection, scale, layer, head, seed, step_rule: as given to `d90.Subspace`; "-" and 0 for "direct".
        base: fingerprint of theta_0.
        draws: checksum of P's integer draws.
        recipe: hash of the recipe, which lies beside the file as JSON; "-" for none.
    """

    structure: str
    projection: str = "-"
    scale: str = "-"
    layer: str = "-"
    head: str = "-"
    seed: int = 0
    step_rule: int = 0
    base: str = "-"
    draws: str = "-"
    recipe: str = "-"


def write(path: str | os.PathLike[str], header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Write a tune; the file appears whole or not at all."""
    from safetensors.torch import save

    line = "|".join([str(FORMAT), *map(str, astuple(header))])
    payload = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata={"d90": line})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        partial.write_bytes(payload)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[Header, dict[str, Tensor]]:
    """Read a tune: sizes and shapes are checked against the file's length before anything is allocated.

    Raises:
        InputError: no such file, not a d90 file, truncated or altered bytes, or a newer format.
    """
    target = Path(path)
    if not target.is_file():
        raise InputError(f"'{target}': no such file; expected a tune written by d90 (task.d90)")
    line, entries, start = _read_header(target)
    header = _parse(line, target)
    payload = target.read_bytes()[start:]
    tensors = {}
    for name, (dtype, shape, low, high) in entries.items():
        flat = (
            torch.frombuffer(bytearray(payload[low:high]), dtype=dtype) if high > low else torch.empty(0, dtype=dtype)
        )
        tensors[name] = flat.reshape(shape)
        if tensors[name].is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise InputError(
                f"'{target}': tensor '{name}' holds NaN or infinity; the file is damaged, or its training diverged"
            )
    return header, tensors


_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64, "F64": torch.float64}
_Entries = dict[str, tuple[torch.dtype, list[int], int, int]]


def _read_header(target: Path) -> tuple[str, _Entries, int]:
    """The metadata line, (dtype, shape, low, high) for each tensor, and where the data starts; nothing large is read."""

    def damaged(why: str) -> InputError:
        return InputError(
            f"'{target}' is not a sound d90 file: {why}. Likely cause: a truncated or altered file; copy it again"
        )

    size = target.stat().st_size
    with target.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise damaged(f"its header claims {length} bytes of {size}")
        raw = file.read(length)
    try:
        parsed = json.loads(raw)
        line = parsed.pop("__metadata__")["d90"]
        entries: _Entries = {}
        for name, entry in parsed.items():
            low, high = entry["data_offsets"]
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            if type(shape) is not list or len(shape) > MOST_DIMENSIONS:
                raise ValueError(f"tensor '{name}' has a shape that is no list")
            if not all(type(n) is int and 0 <= n <= size for n in (low, high, *shape)):
                raise ValueError(f"tensor '{name}' has a size that is no number")
            entries[name] = (dtype, shape, low, high)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(f"unreadable header ({type(error).__name__})") from None
    end = 0
    for name, (dtype, shape, low, high) in sorted(entries.items(), key=lambda item: item[1][2:]):
        count = dtype.itemsize
        for n in shape:
            count *= n
        if low != end or high - low != count:
            raise damaged(f"tensor '{name}' of shape {shape} does not fit its bytes {low}:{high}")
        end = high
    if 8 + length + end != size:
        raise damaged(f"its tensors end at byte {8 + length + end}, the file at {size}")
    return line, entries, 8 + length


def _parse(line: object, target: Path) -> Header:
    if not isinstance(line, str):
        raise InputError(f"'{target}' is not a d90 file: its metadata has no 'd90' line")
    version, _, rest = line.partition("|")
    if re.fullmatch(r"[0-9]{1,9}", version) and int(version) > FORMAT:
        raise InputError(
            f"'{target}' has format {version}, this d90 reads up to {FORMAT}: upgrade d90 (pip install -U d90)"
        )
    values = rest.split("|")
    names = [field.name for field in fields(Header)]
    if version != str(FORMAT) or len(values) != len(names):
        raise InputError(
            f"'{target}' is not a sound d90 file: got {len(values)} metadata fields, expected {len(names)}"
        )
    found: dict[str, str] = dict(zip(names, values, strict=True))
    if not all(re.fullmatch(r"[0-9]{1,20}", found[name]) for name in ("seed", "step_rule")):
        raise InputError(f"'{target}' is not a sound d90 file: its seed or step rule is no number")
    return Header(**{**found, "seed": int(found["seed"]), "step_rule": int(found["step_rule"])})  # type: ignore[arg-type]
