"""Lines of a file within bounds: their length, the bytes a compressed file may grow to, and pipes that never end."""

from __future__ import annotations

import gzip
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from d90.errors import InputError
from d90.files import Json

__all__ = ["MAX_BYTES", "MAX_LINE", "MAX_ROWS", "FileRows", "Row", "check_regular", "numbered_lines", "read_all"]

MAX_LINE = 1 << 26  # bytes of a line
MAX_BYTES = 1 << 33  # bytes of a file, once decompressed
MAX_ROWS = 20_000_000
MAX_RATIO = 100  # a gzip file larger than FREE_BYTES grows at most so many times: text shrinks to a fifth or a tenth
FREE_BYTES = 1 << 28
PIECE = 1 << 20

Row = Json  # what a line of a file, or a row of a table, holds by column


@dataclass
class FileRows:
    """The rows of a file, where each stands ("line 3"), and what was noticed on the way.

    `typed`: whether the format tells numbers from texts, as JSON does and CSV does not.
    """

    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    typed: bool = True

    def add(self, path: Path, place: str, row: Row) -> None:
        """Append a row.

        Raises:
            InputError: more rows than `MAX_ROWS`.
        """
        if len(self.rows) >= MAX_ROWS:
            raise InputError(f"'{path}': more than {MAX_ROWS:,} rows, expected fewer; take a part of it")
        self.rows.append(row)
        self.places.append(place)


def check_regular(path: Path) -> None:
    """Refuse what is not a regular file: a pipe or a device may never end.

    Raises:
        InputError: not a file, or none there.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        raise InputError(f"no such file: '{path}'") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device, which may never end"
        raise InputError(f"'{path}' is {what}, expected a file; save the data to one first")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Numbered lines with their ends; they end at \n, or at \r where a file's beginning has no \n (old Macs).

    Raises:
        InputError: broken UTF-8, a damaged gzip file, a line or a file out of bounds, each with its line; not a file.
    """
    number = 0
    try:
        for number, line in enumerate(_split(path), start=1):
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        wide = number == 1 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        got = "UTF-16" if wide else "broken UTF-8" if error.object[:2] != b"\x1f\x8b" else "a gzip file without .gz"
        raise InputError(
            f"'{path}', line {number}: broken UTF-8 at byte {error.start} of the line"
            f"{'' if got == 'broken UTF-8' else f' ({got})'}; save the file as UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{path}', after line {number}: damaged gzip file ({error}); copy it again") from None


def read_all(path: Path) -> str:
    """The whole text of a file, within the bounds of one of its lines times 16: for JSON that is one value."""
    parts, size = [], 0
    for _, line in numbered_lines(path):
        parts.append(line)
        size += len(line)
        if size > MAX_LINE * 16:
            raise InputError(
                f"'{path}': one JSON value of more than {MAX_LINE * 16 >> 20:,} MiB, expected less; "
                "write one object a line and name it .jsonl"
            )
    return "".join(parts)


def _split(path: Path) -> Iterator[bytes]:
    check_regular(path)
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rb") if packed else path.open("rb") as file:
        held: list[bytes] = []  # of the line that is not at its end yet
        size, number, end = 0, 1, b""
        for piece in _pieces(path, file, packed):  # type: ignore[arg-type]
            end = end or (b"\r" if b"\r" in piece and b"\n" not in piece else b"\n")
            first, *others = piece.split(end)
            size += len(first)
            held.append(first)
            for following in others:
                if size > MAX_LINE:
                    break
                yield b"".join(held) + end
                number, held, size = number + 1, [following], len(following)
            if size > MAX_LINE:
                raise InputError(
                    f"'{path}', line {number}: more than {MAX_LINE >> 20} MiB without a line end, expected an example a line. "
                    "Likely cause: another format, or an unsound file"
                )
        if size:
            yield b"".join(held)


def _pieces(path: Path, file: BinaryIO, packed: bool) -> Iterator[bytes]:
    read, allowed = 0, MAX_BYTES
    if packed:
        allowed = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * path.stat().st_size))
    while piece := file.read(PIECE):
        read += len(piece)
        if read > allowed:
            grown = f" (from {path.stat().st_size:,} compressed)" if packed else ""
            raise InputError(
                f"'{path}': more than {allowed >> 20:,} MiB{grown}, expected less. Likely cause: a damaged or hostile "
                "file; if it is sound, take a part of it"
            )
        yield piece
