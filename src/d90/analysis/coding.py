"""A vector in as few bits as it takes: quantisers, and an integer arithmetic coder whose payload is self-delimiting.

The message, most significant bit first; omega is Elias' omega code of an integer >= 1:

    header     omega(kind) omega(d) omega(L), one bit for the model
    codebook   grid: the step (float32, 32 bits), omega(zigzag(first level)); shared: which of 32 steps (5 bits), the L values being
               those next to 0 on both sides; else L values of 16 bits
    counts     static model only: omega(count_i + 1) for each level
    symbols    the arithmetic code of d symbols, ended so that it decodes alike whatever follows

No message is the beginning of another, so 2^-bits sums to at most 1 over all of them: this length may be put into
an Occam bound. The zeros that fill the last byte and the CRC-32 behind them follow from the message: they choose
nothing and are not counted.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from d90.errors import InputError, unknown_name

__all__ = ["Coded", "Quantised", "decode", "encode", "kmeans", "omega_bits", "shared", "uniform"]

KINDS = ("grid", "bf16", "fp16", "shared")
MODELS = ("adaptive", "static")
STEPS = tuple(float(np.float32(2.0 ** ((i - 24) / 2))) for i in range(32))  # of a shared codebook: 2^-12 ... 2^3.5
MAX_LEVELS = 1 << 12
MAX_SYMBOLS = 1 << 20
_CHECK = 4  # bytes of CRC-32
_PRECISION = 48  # bits of the coder's registers; frequencies stay below 2^(48 - 2)
_FULL, _HALF, _QUARTER = (1 << _PRECISION) - 1, 1 << (_PRECISION - 1), 1 << (_PRECISION - 2)


@dataclass(frozen=True)
class Quantised:
    """A vector of d numbers out of L values.

    Attributes:
        kind: how the values are written: "grid", "bf16", "fp16" or "shared".
        symbols: (d,) int64 in 0 ... L-1.
        values: (L,) float32, exactly what the payload says.
        step, first: of a grid: values[i] = (first + i) step, rounded once to float32. Of a shared codebook step is one of `STEPS`
            and values[i] = (i - (L-1)/2) step.
    """

    kind: str
    symbols: Tensor
    values: Tensor
    step: float = 0.0
    first: int = 0

    def vector(self) -> Tensor:
        """The decoded numbers, (d,) float32."""
        return self.values[self.symbols]


@dataclass(frozen=True)
class Coded:
    """A payload and its length in bits by part; `bits` is what a bound pays.

    Attributes:
        payload: the message, zeros up to a whole byte, and a CRC-32 (4 bytes) that is not counted.
        header, codebook, symbols: bits; the counts of a static model are part of symbols.
        model: the one that was used.
    """

    payload: bytes
    header: int
    codebook: int
    symbols: int
    model: str

    @property
    def bits(self) -> int:
        return self.header + self.codebook + self.symbols


def omega_bits(value: int) -> int:
    """Length of Elias' omega code of an integer >= 1: 1 bit and, for each of n, floor(log2 n), ..., its own digits."""
    if value < 1:
        raise InputError(f"got {value}, expected an integer >= 1: omega codes have no zero")
    total = 1
    while value > 1:
        total += value.bit_length()
        value = value.bit_length() - 1
    return total


def uniform(vector: Tensor, step: float) -> Quantised:
    """Round to a grid: x -> step round(x / step); the grid passes through 0.

    Args:
        vector: (d,) finite numbers.
        step: > 0; rounded to float32, which is what the payload holds.

    Raises:
        InputError: an empty or non-finite vector, a step that is no positive float32, or more than 4,096 levels.
    """
    x = _finite(vector)
    step = float(np.float32(step)) if math.isfinite(step) and abs(step) < 3e38 else math.nan
    if not step > 0.0:
        raise InputError(f"got a grid step of {step}, expected a positive finite float32 number")
    scaled = np.rint(x / step)
    if not np.abs(scaled).max() < 2.0**52 or scaled.max() - scaled.min() >= MAX_LEVELS:
        raise InputError(
            f"a step of {step:g} needs more than {MAX_LEVELS} levels: take a larger one, or clip the vector"
        )
    first = int(scaled.min())
    values = _grid(step, first, int(scaled.max()) - first + 1)
    return Quantised("grid", torch.from_numpy((scaled - first).astype(np.int64)), values, step, first)


def kmeans(vector: Tensor, levels: int, kind: Literal["bf16", "fp16"] = "bf16", rounds: int = 100) -> Quantised:
    """Lloyd's (1982) k-means on a line, from quantiles: at most `levels` values, rounded to 16 bits, each one used.

    Args:
        vector: (d,) finite numbers.
        levels: 1 ... 4,096.
        rounds: most iterations; it stops when no centre moves.

    Raises:
        InputError: an empty or non-finite vector, levels out of range, an unknown kind, or values the kind cannot hold.
    """
    x = _finite(vector)
    if kind not in KINDS[1:]:
        raise unknown_name("codebook", kind, KINDS[1:])
    if not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"got {levels} levels, expected 1 ... {MAX_LEVELS}")
    centres = np.unique(np.quantile(x, (np.arange(levels) + 0.5) / levels))
    for _ in range(rounds):
        nearest = _nearest(x, centres)
        counts = np.bincount(nearest, minlength=len(centres))
        moved = np.unique((np.bincount(nearest, x, len(centres)) / np.maximum(counts, 1))[counts > 0])
        if np.array_equal(moved, centres):
            break
        centres = moved
    values = np.unique(_round16(torch.from_numpy(centres), kind).double().numpy() + 0.0)  # + 0.0: one zero, not two
    if not np.isfinite(values).all():
        raise InputError(f"the vector reaches {np.abs(x).max():g}, more than {kind} can hold: rescale it or take bf16")
    used, symbols = np.unique(_nearest(x, values), return_inverse=True)
    return Quantised(kind, torch.from_numpy(symbols.astype(np.int64)), torch.from_numpy(values[used]).float())


def shared(vector: Tensor, levels: int) -> Quantised:
    """Round to L values on both sides of 0 whose step is one of 32, fixed beforehand: the one of least squared error. Five bits name it.

    Args:
        vector: (d,) finite numbers.
        levels: 1 ... 4,096.

    Raises:
        InputError: an empty or non-finite vector, or levels out of range.
    """
    x = _finite(vector)
    if not 1 <= levels <= MAX_LEVELS:
        raise InputError(f"got {levels} levels, expected 1 ... {MAX_LEVELS}")
    step = min(
        STEPS, key=lambda step: float(np.square(x - _centred(step, levels).numpy()[_place(x, step, levels)]).sum())
    )
    symbols = torch.from_numpy(_place(x, step, levels))
    return Quantised("shared", symbols, _centred(step, levels), step)


def encode(quantised: Quantised, model: Literal["adaptive", "static", "best"] = "best") -> Coded:
    """Write the message. "adaptive": Krichevsky-Trofimov (1981) counts (n_i + 1/2) / (n + L/2); "static": counts sent.

    "best" writes both and keeps the shorter; the model's bit in the header pays for that choice.

    Raises:
        InputError: symbols outside the codebook, values its kind does not hold exactly, sizes out of range.
    """
    if model == "best":
        return min((encode(quantised, "adaptive"), encode(quantised, "static")), key=lambda coded: coded.bits)
    if model not in MODELS:
        raise unknown_name("model", model, (*MODELS, "best"))
    symbols = _checked(quantised)
    writer = _Writer()
    for number in (KINDS.index(quantised.kind) + 1, len(symbols), len(quantised.values)):
        writer.omega(number)
    writer.write(MODELS.index(model), 1)
    header = len(writer.bits)
    if quantised.kind == "grid":
        writer.write(struct.unpack(">I", struct.pack(">f", quantised.step))[0], 32)
        writer.omega(2 * quantised.first + 1 if quantised.first >= 0 else -2 * quantised.first)
    elif quantised.kind == "shared":
        writer.write(STEPS.index(quantised.step), 5)
    else:
        for word in _round16(quantised.values, quantised.kind).view(torch.int16).tolist():
            writer.write(word & 0xFFFF, 16)
    codebook = len(writer.bits) - header
    counts = np.bincount(symbols, minlength=len(quantised.values)).tolist()
    if model == "static":
        for count in counts:
            writer.omega(count + 1)
    _code_symbols(writer, symbols, _Frequencies(counts, model))
    body = writer.to_bytes()
    payload = body + zlib.crc32(body).to_bytes(_CHECK, "big")
    return Coded(payload, header, codebook, len(writer.bits) - header - codebook, model)


def decode(payload: bytes, most: int = MAX_SYMBOLS) -> Quantised:
    """Read what `encode` wrote: the same symbols, and the same values bit for bit.

    Args:
        most: the largest d accepted, known before the payload is read: nothing larger is allocated.

    Raises:
        InputError: truncated, altered or lengthened bytes, or more than `most` symbols.
    """
    body, check = payload[:-_CHECK], payload[-_CHECK:]
    if len(payload) <= _CHECK or zlib.crc32(body).to_bytes(_CHECK, "big") != check:
        raise _damaged(f"the checksum of its {len(payload)} bytes does not match")
    reader = _Reader(body)
    kind, d, size = reader.omega(), reader.omega(), reader.omega()
    if kind > len(KINDS) or d > min(most, MAX_SYMBOLS) or size > MAX_LEVELS:
        raise _damaged(f"it claims kind {kind}, {d} symbols (at most {most}) and {size} levels (at most {MAX_LEVELS})")
    model, step, first = MODELS[reader.read(1)], 0.0, 0
    if kind == 1:
        step = struct.unpack(">f", reader.read(32).to_bytes(4, "big"))[0]
        zigzag = reader.omega()
        first = (zigzag - 1) // 2 if zigzag % 2 else -(zigzag // 2)
        if not (math.isfinite(step) and step > 0.0 and abs(first) <= 1 << 53):
            raise _damaged("its grid is no grid")
        values = _grid(step, first, size)
    elif KINDS[kind - 1] == "shared":
        step = STEPS[reader.read(5)]
        values = _centred(step, size)
    else:
        words = np.array([reader.read(16) for _ in range(size)], dtype=np.uint16).view(np.int16)
        values = torch.from_numpy(words).view(_DTYPES[KINDS[kind - 1]]).float()
    counts = [reader.omega() - 1 for _ in range(size)] if model == "static" else [0] * size
    if model == "static" and sum(counts) != d:
        raise _damaged(f"its counts sum to {sum(counts)}, not to {d}")
    symbols = torch.tensor(_decode_symbols(reader, d, _Frequencies(counts, model)))
    found = Quantised(KINDS[kind - 1], symbols, values, step, first)
    try:
        again = encode(found, model)  # type: ignore[arg-type]
    except InputError as error:
        raise _damaged(str(error)) from None
    if again.payload != payload:
        raise _damaged("it is not how its own content is written")
    return found


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _round16(values: Tensor, kind: str) -> Tensor:
    return values.to(_DTYPES[kind])


def _grid(step: float, first: int, size: int) -> Tensor:
    return torch.from_numpy((np.arange(first, first + size, dtype=np.float64) * step).clip(-1e39, 1e39)).float()


def _centred(step: float, levels: int) -> Tensor:
    return torch.from_numpy((np.arange(levels) - (levels - 1) / 2) * step).float()


def _place(x: np.ndarray, step: float, levels: int) -> np.ndarray:
    return np.clip(np.rint(x / step + (levels - 1) / 2), 0, levels - 1).astype(np.int64)


def _nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.searchsorted(0.5 * (centres[1:] + centres[:-1]), x)


def _finite(vector: Tensor) -> np.ndarray:
    x = vector.detach().double().cpu().numpy()
    if x.ndim != 1 or not 1 <= x.size <= MAX_SYMBOLS or not np.isfinite(x).all():
        raise InputError(f"got a vector of shape {x.shape}, expected (d,), 1 <= d <= {MAX_SYMBOLS}, of finite numbers")
    return x


def _checked(quantised: Quantised) -> list[int]:
    symbols, values = quantised.symbols, quantised.values
    if quantised.kind not in KINDS:
        raise unknown_name("kind of codebook", quantised.kind, KINDS)
    if symbols.ndim != 1 or values.ndim != 1 or symbols.dtype != torch.int64 or values.dtype != torch.float32:
        raise InputError(
            "expected symbols (d,) of int64 and values (L,) of float32: take them from `uniform` or `kmeans`"
        )
    if not (1 <= len(symbols) <= MAX_SYMBOLS and 1 <= len(values) <= MAX_LEVELS):
        raise InputError(f"got {len(symbols)} symbols of {len(values)} levels, at most {MAX_SYMBOLS} and {MAX_LEVELS}")
    if int(symbols.min()) < 0 or int(symbols.max()) >= len(values):
        raise InputError(f"got symbols {int(symbols.min())} ... {int(symbols.max())} for {len(values)} levels")
    if quantised.kind == "shared":
        if quantised.step not in STEPS or not torch.equal(values, _centred(quantised.step, len(values))):
            raise InputError(f"got a shared codebook with a step of {quantised.step}, expected one of `STEPS`")
        return [int(s) for s in symbols.tolist()]
    grid = quantised.kind == "grid"
    if grid and float(np.float32(quantised.step)) != quantised.step:
        raise InputError(f"got a grid step of {quantised.step}, expected a float32 number: take it from `uniform`")
    written = _grid(quantised.step, quantised.first, len(values)) if grid else _round16(values, quantised.kind).float()
    if not bool(torch.isfinite(values).all()) or not torch.equal(written, values):
        raise InputError(
            f"the codebook's values are not finite {quantised.kind} numbers: round them before the symbols"
        )
    return [int(s) for s in symbols.tolist()]


def _damaged(why: str) -> InputError:
    return InputError(
        f"this is not a sound coded vector: {why}. Likely cause: truncated or altered bytes; copy it again"
    )


class _Writer:
    def __init__(self) -> None:
        self.bits: list[int] = []

    def write(self, value: int, width: int) -> None:
        self.bits.extend((value >> i) & 1 for i in range(width - 1, -1, -1))

    def omega(self, value: int) -> None:
        groups = []
        while value > 1:
            groups.append(value)
            value = value.bit_length() - 1
        for group in reversed(groups):
            self.write(group, group.bit_length())
        self.bits.append(0)

    def to_bytes(self) -> bytes:
        return np.packbits(np.array(self.bits, dtype=np.uint8)).tobytes()


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.bits: list[int] = np.unpackbits(np.frombuffer(body, dtype=np.uint8)).tolist()
        self.at = 0

    def read(self, width: int) -> int:
        """The next bits; past the end zeros, as far as the arithmetic decoder looks ahead and no further."""
        if self.at + width > len(self.bits) + _PRECISION:
            raise _damaged("it ends early")
        value = 0
        for i in range(self.at, self.at + width):
            value = 2 * value + (self.bits[i] if i < len(self.bits) else 0)
        self.at += width
        return value

    def omega(self) -> int:
        value = 1
        while self.read(1):
            if value > 64:
                raise _damaged("a number in it has no end")
            value = (1 << value) | self.read(value)
        return value


class _Frequencies:
    """The model both ends keep: static counts, or KT's, doubled (2 n_i + 1) to stay whole numbers."""

    def __init__(self, counts: list[int], model: str) -> None:
        self.adaptive = model == "adaptive"
        self.of = [1] * len(counts) if self.adaptive else list(counts)
        self.total = sum(self.of)

    def interval(self, symbol: int) -> tuple[int, int]:
        low = sum(self.of[:symbol])
        return low, low + self.of[symbol]

    def find(self, position: int) -> int:
        symbol, low = 0, self.of[0]
        while low <= position:
            symbol += 1
            low += self.of[symbol]
        return symbol

    def seen(self, symbol: int) -> None:
        if self.adaptive:
            self.of[symbol] += 2
            self.total += 2


def _narrowed(low: int, high: int, part: tuple[int, int], total: int) -> tuple[int, int]:
    width = high - low + 1
    return low + width * part[0] // total, low + width * part[1] // total - 1


def _code_symbols(writer: _Writer, symbols: list[int], model: _Frequencies) -> None:
    """Integer arithmetic coding (Witten, Neal & Cleary 1987): [low, high] is the part of [0, 2^48) still possible."""
    low, high, pending = 0, _FULL, 0

    def put(bit: int) -> None:
        writer.bits.append(bit)
        writer.bits.extend([1 - bit] * pending)

    for symbol in symbols:
        low, high = _narrowed(low, high, model.interval(symbol), model.total)
        model.seen(symbol)
        while True:
            if high < _HALF or low >= _HALF:
                put(int(low >= _HALF))
                pending = 0
            elif low >= _QUARTER and high < _HALF + _QUARTER:
                pending += 1
                low, high = low - _QUARTER, high - _QUARTER
            else:
                break
            low, high = 2 * low & _FULL, (2 * high & _FULL) | 1
    pending += 1  # two bits more name a quarter that lies inside [low, high], whatever follows
    put(int(low >= _QUARTER))


def _decode_symbols(reader: _Reader, d: int, model: _Frequencies) -> list[int]:
    low, high, code = 0, _FULL, reader.read(_PRECISION)
    symbols = []
    for _ in range(d):
        position = ((code - low + 1) * model.total - 1) // (high - low + 1)
        symbol = model.find(position)
        low, high = _narrowed(low, high, model.interval(symbol), model.total)
        model.seen(symbol)
        symbols.append(symbol)
        while True:
            if low >= _QUARTER and high < _HALF + _QUARTER and low < _HALF <= high:
                low, high, code = low - _QUARTER, high - _QUARTER, code - _QUARTER
            elif not (high < _HALF or low >= _HALF):
                break
            low, high, code = 2 * low & _FULL, (2 * high & _FULL) | 1, (2 * code & _FULL) | reader.read(1)
    return symbols
