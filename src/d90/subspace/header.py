"""What comes before the numbers in a tune's file: one line of metadata and where each tensor lies. Read and checked without torch.

The formats are in `d90.subspace.file`.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from d90.errors import InputError
from d90.files import check_tune
from d90.subspace.options import SubspaceOptions

if TYPE_CHECKING:
    from d90.subspace.fingerprint import Base

__all__ = [
    "FORMAT",
    "LINE",
    "NO_CHECK",
    "NO_PART",
    "About",
    "Header",
    "Opened",
    "about",
    "damaged",
    "open_header",
    "shorter",
    "source",
]

FORMAT = 3
HEADER_LIMIT = 1 << 20  # bytes; ours take some 200 plus 100 for each tensor
MAX_DIMENSIONS = 16
NO_CHECK = "0" * 8
NO_PART = "-"  # of a base that has no such part, as a module without a tokenizer


@dataclass(frozen=True)
class Header:
    """What loading needs besides the numbers.

    Attributes:
        structure: "did" or "said" for a subspace, "direct" for parameters trained as they are.
        projection, scale, layer, head, seed, step_rule: as given to `d90.Subspace`; "-" and 0 for "direct".
        base: digest of the base model (`d90.subspace.fingerprint.Base`); before format 3 of its weights alone.
        draws: checksum of P's integer draws.
        recipe: hash of the record that lies beside the file as JSON; "-" for none.
        tokenizer: the base's tokenizer, as it entered `base`; "-" for none.
        format: of the file that was read; what is written has the newest.
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
    tokenizer: str = NO_PART
    format: int = FORMAT

    @property
    def options(self) -> SubspaceOptions:
        """The subspace's options; for "direct" there are none.

        Raises:
            InputError: an option that this d90 does not know.
        """
        return SubspaceOptions(**{one.name: getattr(self, one.name) for one in fields(SubspaceOptions)})

    @classmethod
    def of(cls, options: SubspaceOptions, base: Base, draws: str = "-", recipe: str = "-") -> Header:
        """The header of a subspace's tune."""
        return cls(**vars(options), base=base.digest, draws=draws, recipe=recipe, tokenizer=base.tokenizer)


@dataclass(frozen=True)
class About:
    """What a file's header says of it.

    Attributes:
        header: the metadata.
        count: how many numbers are trained in theta: d for a subspace; the numbers of all tensors for "direct".
        dtype: how they are stored, "fp32", "bf16" or "int8"; another type by torch's name.
        format: the version of the file's format.
        bytes: the file's size.
    """

    header: Header
    count: int
    dtype: str
    format: int
    bytes: int


def about(path: str | os.PathLike[str], data: bytes | None = None) -> About:
    """What a file is, from its header alone: the numbers are neither read nor checked. `data` as in `read`.

    Raises:
        InputError: as `read`, for what the header can show.
    """
    return open_header(Path(path), data).about()


LINE = [field.name for field in fields(Header) if field.name != "format"]  # in the order of the metadata line
_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "F64": 8, "I8": 1}  # of a number, by safetensors' names
_Entries = dict[str, tuple[str, list[int], int, int]]
_NAMES = {
    "F32": "fp32",
    "BF16": "bf16",
    "I8": "int8",
    "F16": "float16",
    "F64": "float64",
    "I32": "int32",
    "I64": "int64",
}


@dataclass(frozen=True)
class Opened:
    """A file whose header is sound: (dtype, shape, low, high) for each tensor, where the data starts, and its checksum.

    `sealed` are the bytes before the data as the checksum saw them; `check` is empty in format 1.
    """

    header: Header
    format: int
    check: str
    entries: _Entries
    start: int
    sealed: bytes
    size: int

    def about(self) -> About:
        counts = {name: (high - low) // _BYTES[dtype] for name, (dtype, _, low, high) in self.entries.items()}
        if self.header.structure != "direct" and "theta" in counts:
            count, kinds = counts["theta"], {self.entries["theta"][0]}
        else:
            count, kinds = sum(counts.values()), {entry[0] for entry in self.entries.values()}
        names = sorted(_NAMES[kind] for kind in kinds)
        return About(self.header, count, "+".join(names), self.format, self.size)


def source(target: Path, data: bytes | None) -> io.BufferedIOBase:
    """A file, or its bytes that were read before, to read from."""
    return target.open("rb") if data is None else io.BytesIO(data)


def open_header(target: Path, data: bytes | None = None) -> Opened:
    """Read and check all that comes before the data; nothing large is read."""
    if data is None:
        check_tune(target)
    size = target.stat().st_size if data is None else len(data)
    with source(target, data) as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise damaged(target, f"its header claims {length} bytes of {size}")
        raw = file.read(length)
    try:
        parsed = json.loads(raw)
        line = parsed.pop("__metadata__")["d90"]
        entries: _Entries = {}
        for name, entry in parsed.items():
            low, high = entry["data_offsets"]
            dtype, shape = entry["dtype"], entry["shape"]
            if dtype not in _BYTES:
                raise ValueError(f"tensor '{name}' holds numbers of a type that no tune has")
            if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
                raise ValueError(f"tensor '{name}' has a shape that is no list")
            if not all(type(n) is int and 0 <= n <= size for n in (low, high, *shape)):
                raise ValueError(f"tensor '{name}' has a size that is no number")
            entries[name] = (dtype, shape, low, high)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(target, f"unreadable header ({type(error).__name__})") from None
    end = 0
    for name, (dtype, shape, low, high) in sorted(entries.items(), key=lambda item: item[1][2:]):
        count = _BYTES[dtype]
        for n in shape:
            count *= n
        if low != end or high - low != count:
            raise damaged(target, f"tensor '{name}' of shape {shape} does not fit its bytes {low}:{high}")
        end = high
    if 8 + length + end != size:
        raise damaged(target, f"its tensors end at byte {8 + length + end}, the file at {size}")
    header, version, check = _parse(line, target)
    sealed = first + raw.replace(f'|{check}"'.encode(), f'|{NO_CHECK}"'.encode(), 1)
    return Opened(header, version, check, entries, 8 + length, sealed, size)


def _parse(line: object, target: Path) -> tuple[Header, int, str]:
    """(header, format, checksum) from the metadata line."""
    if not isinstance(line, str):
        raise InputError(f"'{target}' is not a d90 file: its metadata has no 'd90' line")
    version, _, rest = line.partition("|")
    if re.fullmatch(r"[0-9]{1,9}", version) and int(version) > FORMAT:
        raise InputError(
            f"'{target}' has format {version}, this d90 reads up to {FORMAT}: upgrade d90 (pip install -U d90)"
        )
    if version not in ("1", "2", "3"):
        raise InputError(f"'{target}' is not a sound d90 file: got a format that is no number, expected 1 to {FORMAT}")
    values, check = rest.split("|"), ""
    names = LINE if version == "3" else LINE[:-1]
    if version != "1":
        *values, check = values
        values = [_longer(value) for value in values]
    if len(values) != len(names) or (version != "1" and not re.fullmatch(r"[0-9a-f]{8}", check)):
        raise damaged(target, f"got {len(values)} metadata fields, expected {len(names)} in format {version}")
    found: dict[str, str] = dict(zip(names, values, strict=True))
    seed, rule = found["seed"], found["step_rule"]
    if version == "3" and re.fullmatch(r"[0-9a-f]{16}", seed) and rest.split("|")[LINE.index("seed")].startswith("~"):
        seed = str(int(seed, 16))
    if not all(re.fullmatch(r"[0-9]{1,20}", number) for number in (seed, rule)):
        raise InputError(f"'{target}' is not a sound d90 file: its seed or step rule is no number")
    numbers = {"seed": int(seed), "step_rule": int(rule), "format": int(version)}
    return Header(**{**found, **numbers}), int(version), check  # type: ignore[arg-type]


def shorter(value: str) -> str:
    """A field's text as the line holds it: 16 hex digits as "~" and 11 characters."""
    if not re.fullmatch(r"[0-9a-f]{16}", value):
        return value
    return "~" + base64.urlsafe_b64encode(bytes.fromhex(value)).decode().rstrip("=")


def _longer(value: str) -> str:
    if not re.fullmatch(r"~[\w-]{11}", value, re.ASCII):
        return value
    return base64.urlsafe_b64decode(value[1:] + "=").hex()


def damaged(target: Path, why: str) -> InputError:
    """The error for a file whose bytes are not sound."""
    return InputError(
        f"'{target}' is not a sound d90 file: {why}. Likely cause: a truncated or altered file; copy it again"
    )
