"""Predictions in few bytes: class numbers in one or two bytes each (fp32 values for a regression), compressed; negative where none is."""

from __future__ import annotations

import zlib
from typing import Any

import numpy
from numpy.typing import NDArray

from d90.errors import StoreError

__all__ = ["pack", "unpack"]

KINDS: dict[bytes, numpy.dtype[Any]] = {
    b"B": numpy.dtype("<u1"),
    b"H": numpy.dtype("<u2"),
    b"h": numpy.dtype("<i2"),
    b"f": numpy.dtype("<f4"),
}


def pack(values: NDArray[Any]) -> bytes:
    """Class numbers, or values, one an example: a letter for their kind, then the zlib stream."""
    whole = b"h" if values.min(initial=0) < 0 else b"B" if values.max(initial=0) < 256 else b"H"
    kind = b"f" if values.dtype.kind == "f" else whole
    return kind + zlib.compress(values.astype(KINDS[kind]).tobytes(), 9)


def unpack(packed: bytes) -> NDArray[Any]:
    """What `pack` took: int64 class numbers, or fp32 values.

    Raises:
        StoreError: bytes that `pack` did not write.
    """
    try:
        values = numpy.frombuffer(zlib.decompress(packed[1:]), KINDS[packed[:1]])
    except (zlib.error, KeyError, ValueError):
        raise StoreError("damaged predictions in the store; remove the trial's row and run it again") from None
    return values if packed[:1] == b"f" else values.astype(numpy.int64)
