"""What a folder of tunes holds at one moment: each name with the hash of its bytes, small files in memory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from d90.errors import InputError
from d90.files import check_tune

__all__ = ["Entry", "scan"]

HELD_BYTES = 1 << 16  # a tune of up to this size is kept in memory; a larger file is read again when it is needed
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tune as it was found.

    Attributes:
        path: where it lies.
        id: the first 16 hex digits of the SHA-256 of its bytes.
        stamp: its inode, size and time of change, by which a later scan knows it again.
        held: its bytes, where they are few.
    """

    path: Path
    id: str
    stamp: _Stamp
    held: bytes | None = field(default=None, repr=False)

    def data(self) -> bytes:
        """The bytes that the id belongs to.

        Raises:
            InputError: the file has gone or was replaced since.
        """
        if self.held is not None:
            return self.held
        check_tune(self.path)
        data = self.path.read_bytes()
        if _id_of(data) != self.id:
            raise self.replaced()
        return data

    def replaced(self) -> InputError:
        """The error for a file that is no longer the one this entry tells of."""
        return InputError(
            f"'{self.path}' was replaced since the bank read its folder; expected the tune {self.id}. Call bank.refresh()"
        )

    def is_current(self) -> bool:
        """Whether the file on disk is still this one."""
        try:
            return _id_of(self.path.read_bytes()) == self.id
        except OSError:
            return False


def scan(folder: Path, earlier: dict[str, Entry] | None = None) -> dict[str, Entry]:
    """Every `NAME.d90` of a folder by its name, sorted. What has not changed since `earlier` is not read again.

    Raises:
        InputError: the folder is gone.
    """
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder; expected one that holds NAME.d90 files")
    with os.scandir(folder) as entries:
        files = sorted((e.name.removesuffix(".d90"), Path(e.path)) for e in entries if _is_tune(e))
    found = {}
    for name, path in files:
        try:
            entry = _entry(path, (earlier or {}).get(name))
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            raise InputError(f"'{path}' cannot be read: {error.strerror}; expected a tune. Check its rights") from None
        found[name] = entry
    return found


def _is_tune(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".d90") and entry.is_file()


def _entry(path: Path, earlier: Entry | None) -> Entry:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if earlier is not None and earlier.stamp == stamp:
            return earlier
        if status.st_size <= HELD_BYTES:
            data = file.read()
            return Entry(path, _id_of(data), stamp, data)
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
        return Entry(path, digest.hexdigest()[:16], stamp)


def _id_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
