"""Every file that d90 writes appears whole or not at all, and never over something that is not its own kind.

A file is written beside its place under a name of its own, brought to the disk, and renamed. After a kill or on a full
disk what was there before is untouched.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from d90.errors import InputError, RunFailed

__all__ = [
    "Json",
    "cache_folder",
    "check_new_folder",
    "check_output",
    "check_outputs",
    "check_recipe",
    "check_tune",
    "new_folder",
    "replaced",
    "write_bytes",
    "write_text",
]

Json: TypeAlias = dict[str, Any]
"""A JSON object as it is read or written: met at the boundary alone, in `from_dict`, `to_dict` and what calls them."""

_SQLITE = b"SQLite format 3\x00"


def cache_folder() -> Path:
    """Where d90 keeps what it can make again: in the user's cache, or under XDG_CACHE_HOME. It may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d90"


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text in UTF-8, with line ends as they are; what UTF-8 cannot hold becomes "?".

    Raises:
        InputError, RunFailed: as `replaced`.
    """
    return write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file at once.

    Raises:
        InputError, RunFailed: as `replaced`.
    """
    with replaced(path) as partial:
        partial.write_bytes(content)
    return Path(path)


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place to write a file to, which takes the place of `path` when the block ends without an error.

    Raises:
        InputError: the path is a folder or an SQLite store.
        RunFailed: the disk is full, or the folder cannot be written; what was at `path` is untouched.
    """
    check_output(path)
    target = Path(os.path.realpath(path))  # a link stays one
    device = target.exists() and not target.is_file()  # /dev/stdout is written to, not replaced
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        where = None if device else target.parent
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:80]}.", suffix=".part", dir=where)
        os.close(handle)
        partial = Path(name)
        yield partial
        if device:
            target.write_bytes(partial.read_bytes())
            return
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(partial, _mode(target))
        os.replace(partial, target)
        partial = None
        _sync_folder(target.parent)
    except OSError as error:
        raise RunFailed(
            f"'{target}' could not be written: {error.strerror or error}. What was there before is untouched; free some space or "
            "choose another folder with --out"
        ) from None
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def check_new_folder(path: str | os.PathLike[str]) -> Path:
    """Refuse, before any work is done, a folder that holds something.

    Raises:
        InputError: a file, or a folder that is not empty.
    """
    folder = Path(path)
    if folder.is_file():
        raise InputError(f"got '{folder}', a file, expected a folder to write into; choose another --out")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"'{folder}' holds something already, expected a new or empty folder; choose another --out")
    return folder


def check_tune(path: str | os.PathLike[str]) -> Path:
    """Refuse a path at which no file lies, before anything large is imported or read.

    Raises:
        InputError: no such file.
    """
    if not Path(path).is_file():
        raise InputError(f"'{path}': no such file; expected a tune written by d90 (task.d90)")
    return Path(path)


def check_recipe(path: str | os.PathLike[str]) -> Path:
    """Refuse a path at which no recipe can lie, before anything large is imported or read.

    Raises:
        InputError: no such file, or a folder.
    """
    if Path(path).is_dir():
        raise InputError(f"'{path}' is a folder, expected a YAML file; name one inside it")
    if not Path(path).exists():
        raise InputError(f"no such recipe: '{path}'; expected a YAML file, as recipes/aghajanyan-table1.yaml")
    return Path(path)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write files into, which becomes `path` when the block ends without an error: whole, or not at all.

    Raises:
        InputError: as `check_new_folder`.
        RunFailed: the disk is full, or the folder around it cannot be written.
    """
    folder = check_new_folder(path)
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name[:80]}.", suffix=".part", dir=parent) as held:
            whole = Path(held) / "whole"
            whole.mkdir()
            yield whole
            for file in whole.rglob("*"):
                if file.is_file():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
            if folder.exists():
                folder.rmdir()  # empty: looked at above
            whole.replace(folder)
        _sync_folder(parent)
    except OSError as error:
        raise RunFailed(
            f"'{folder}' could not be written: {error.strerror or error}. Nothing was left there; free some space or choose another "
            "folder with --out"
        ) from None


def check_output(path: str | os.PathLike[str] | None, *others: str | os.PathLike[str] | None) -> None:
    """Refuse, before any work is done, a file that could not be written, or that would destroy another.

    Args:
        path: where a result is to go; None for nowhere.
        others: paths that the same command reads or writes.

    Raises:
        InputError: a folder, a folder that cannot be written, an SQLite store, or one of `others`.
    """
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise InputError(f"got '{target}' to write to, which is a folder; expected the name of a file in it")
    for other in others:
        if other is not None and _same(target, Path(other)):
            raise InputError(
                f"got '{target}' both to write to and as the store; expected two files. Name another with --out"
            )
    if _is_sqlite(target):
        raise InputError(
            f"'{target}' is an SQLite file, as a store of trials is, and would be overwritten; expected another file. Name another"
        )
    folder = next(parent for parent in (target.absolute().parent, *target.absolute().parents) if parent.exists())
    if not folder.is_dir():
        raise InputError(f"got '{target}' to write to, and '{folder}' is a file, not a folder; name another path")
    if not os.access(folder, os.W_OK | os.X_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise InputError(f"'{target}' cannot be written: permission denied; name a file in a folder of your own")


def check_outputs(command: str, given: Mapping[str, Any]) -> None:
    """Check every file that a command line names to write to, before the command does anything.

    Args:
        command: its name; some write a folder, which they check themselves.
        given: its arguments by name.

    Raises:
        InputError: as `check_output`; a store with the ending of a page.
    """
    stores = [given.get("store"), *(given.get("stores") or ())]
    store: Any = given.get("store")
    writes = store is not None and command not in ("report", "export")
    if writes and Path(store).suffix.lower() in _PAGES:
        raise InputError(
            f"got --store {store}, expected a name of its own such as d90.sqlite: '{Path(store).suffix}' is a page's"
        )
    if writes and Path(store).is_dir():
        raise InputError(
            f"got --store {store}, which is a folder; expected the name of a file in it, as {store}/d90.sqlite"
        )
    if command in _WRITE_FOLDERS:
        return
    for name in ("out", "page"):
        path = given.get(name)
        check_output(path, *stores)
        if path is not None and name == "out" and command in ("train", "analyze"):
            check_output(Path(path).with_suffix(".json"), *stores)
    if command == "report" and given.get("out") is None and store is not None and Path(store).suffix.lower() == ".html":
        raise InputError(f"the page of '{store}' would have its name; expected another. Name one with --out")


_PAGES = (".html", ".json", ".csv", ".d90")
_WRITE_FOLDERS = ("merge", "convert", "pull", "pretrain", "run")


def _same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        if one.exists() and other.exists():
            return one.samefile(other)
    return one.absolute() == other.absolute() or one.resolve() == other.resolve()


def _is_sqlite(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
    return False


def _mode(target: Path) -> int:
    """The permissions of the file that is replaced, or those a new file would have."""
    with contextlib.suppress(OSError):
        return target.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Bring the rename itself to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
