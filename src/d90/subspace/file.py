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

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from d90.errors import InputError
from d90.files import check_tune, write_bytes
from d90.subspace.fingerprint import NO_PART, Base, base_of, earlier_weights
from d90.subspace.options import STEP_RULES, STRUCTURES, SubspaceOptions
from d90.subspace.packing import DTYPES, check_dtype, damaged, finite, pack, unpack

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

FORMAT = 3
HEADER_LIMIT = 1 << 20  # bytes; ours take some 200 plus 100 for each tensor
MAX_DIMENSIONS = 16
_NO_CHECK = "0" * 8


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


def write(path: str | os.PathLike[str], header: Header, tensors: Mapping[str, Tensor], dtype: str = "fp32") -> None:
    """Write a tune; the file appears whole or not at all. `dtype` is what `theta` is stored in.

    Raises:
        InputError: an unknown dtype, a field that one line cannot hold, a theta that is not finite in bf16 or int8.
        RunFailed: the disk is full, or the folder cannot be written; what lay there is untouched.
    """
    write_bytes(path, encode(header, tensors, dtype))


def encode(header: Header, tensors: Mapping[str, Tensor], dtype: str = "fp32") -> bytes:
    """The bytes of a tune.

    Raises:
        InputError: as `write`.
    """
    from safetensors.torch import save

    values = [_text(name, getattr(header, name)) for name in _LINE]
    wrong = next((value for value in values if not re.fullmatch(r"[\w:.+-]*", value, re.ASCII)), None)
    if wrong is not None:
        raise InputError(f"got '{wrong}' for the file's metadata, expected letters, digits and _ : . + - alone")
    stored = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    if "theta" in stored and header.structure != "direct":
        stored |= pack(stored.pop("theta"), dtype)
    payload = save(stored, metadata={"d90": "|".join([str(FORMAT), *map(_shorter, values), _NO_CHECK])})
    check = hashlib.sha256(payload).hexdigest()[:8]
    payload = payload.replace(f'|{_NO_CHECK}"'.encode(), f'|{check}"'.encode(), 1)
    return payload


def about(path: str | os.PathLike[str], data: bytes | None = None) -> About:
    """What a file is, from its header alone: the numbers are neither read nor checked. `data` as in `read`.

    Raises:
        InputError: as `read`, for what the header can show.
    """
    return _open(Path(path), data).about()


def read(path: str | os.PathLike[str], data: bytes | None = None) -> tuple[Header, dict[str, Tensor]]:
    """Read a tune: sizes and shapes are checked against the file's length before anything is allocated.

    `data` are the file's bytes, where they were read before; `path` then names it in errors alone.

    Raises:
        InputError: no such file, not a d90 file, truncated or altered bytes, or a newer format.
    """
    target = Path(path)
    opened = _open(target, data)
    digest = hashlib.sha256(opened.sealed)
    tensors = {}
    with _source(target, data) as file:
        file.seek(opened.start)
        for name, (dtype, shape, low, high) in sorted(opened.entries.items(), key=lambda item: item[1][2:]):
            buffer = bytearray(high - low)
            if file.readinto(buffer) != high - low:
                raise damaged(target, "it ends early")
            digest.update(buffer)
            flat = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
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


# --- the header -------------------------------------------------------------------------------------------------------

_LINE = [field.name for field in fields(Header) if field.name != "format"]  # in the order of the metadata line
_TYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "F64": torch.float64,
    "I8": torch.int8,
}
_Entries = dict[str, tuple[torch.dtype, list[int], int, int]]
_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "int8"}


@dataclass(frozen=True)
class _Opened:
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
        counts = {name: (high - low) // dtype.itemsize for name, (dtype, _, low, high) in self.entries.items()}
        if self.header.structure != "direct" and "theta" in counts:
            count, kinds = counts["theta"], {self.entries["theta"][0]}
        else:
            count, kinds = sum(counts.values()), {entry[0] for entry in self.entries.values()}
        names = sorted(_SHORT.get(kind, str(kind).removeprefix("torch.")) for kind in kinds)
        return About(self.header, count, "+".join(names), self.format, self.size)


def _source(target: Path, data: bytes | None) -> io.BufferedIOBase:
    return target.open("rb") if data is None else io.BytesIO(data)


def _open(target: Path, data: bytes | None = None) -> _Opened:
    """Read and check all that comes before the data; nothing large is read."""
    if data is None:
        check_tune(target)
    size = target.stat().st_size if data is None else len(data)
    with _source(target, data) as file:
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
            dtype, shape = _TYPES[entry["dtype"]], entry["shape"]
            if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
                raise ValueError(f"tensor '{name}' has a shape that is no list")
            if not all(type(n) is int and 0 <= n <= size for n in (low, high, *shape)):
                raise ValueError(f"tensor '{name}' has a size that is no number")
            entries[name] = (dtype, shape, low, high)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(target, f"unreadable header ({type(error).__name__})") from None
    end = 0
    for name, (dtype, shape, low, high) in sorted(entries.items(), key=lambda item: item[1][2:]):
        count = dtype.itemsize
        for n in shape:
            count *= n
        if low != end or high - low != count:
            raise damaged(target, f"tensor '{name}' of shape {shape} does not fit its bytes {low}:{high}")
        end = high
    if 8 + length + end != size:
        raise damaged(target, f"its tensors end at byte {8 + length + end}, the file at {size}")
    header, version, check = _parse(line, target)
    sealed = first + raw.replace(f'|{check}"'.encode(), f'|{_NO_CHECK}"'.encode(), 1)
    return _Opened(header, version, check, entries, 8 + length, sealed, size)


def _text(name: str, value: object) -> str:
    """A field as text; a seed of 10^12 and more in hex, which `_shorter` makes 12 characters of."""
    return f"{value:016x}" if name == "seed" and isinstance(value, int) and value >= 10**12 else str(value)


def _shorter(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", value):
        return value
    return "~" + base64.urlsafe_b64encode(bytes.fromhex(value)).decode().rstrip("=")


def _longer(value: str) -> str:
    if not re.fullmatch(r"~[\w-]{11}", value, re.ASCII):
        return value
    return base64.urlsafe_b64decode(value[1:] + "=").hex()


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
    names = _LINE if version == "3" else _LINE[:-1]
    if version != "1":
        *values, check = values
        values = [_longer(value) for value in values]
    if len(values) != len(names) or (version != "1" and not re.fullmatch(r"[0-9a-f]{8}", check)):
        raise damaged(target, f"got {len(values)} metadata fields, expected {len(names)} in format {version}")
    found: dict[str, str] = dict(zip(names, values, strict=True))
    seed, rule = found["seed"], found["step_rule"]
    if version == "3" and re.fullmatch(r"[0-9a-f]{16}", seed) and rest.split("|")[_LINE.index("seed")].startswith("~"):
        seed = str(int(seed, 16))
    if not all(re.fullmatch(r"[0-9]{1,20}", number) for number in (seed, rule)):
        raise InputError(f"'{target}' is not a sound d90 file: its seed or step rule is no number")
    numbers = {"seed": int(seed), "step_rule": int(rule), "format": int(version)}
    return Header(**{**found, **numbers}), int(version), check  # type: ignore[arg-type]
