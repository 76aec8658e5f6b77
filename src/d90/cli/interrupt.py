"""Interruption: Ctrl-C, SIGTERM and SIGHUP end a command alike, and each command says what is kept and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

from d90.cli.spelling import as_options
from d90.errors import D90Error, RunFailed
from d90.files import check_outputs

__all__ = ["Interrupted", "catch_signals", "interruptible"]


class Interrupted(BaseException):
    """A command was interrupted; the message says what is kept. Not a KeyboardInterrupt, which typer keeps for itself."""


def catch_signals() -> None:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does; a signal that is ignored (nohup) stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """The command: its files checked before it begins, its errors in the command line's spelling, an interruption `Interrupted`."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        check_outputs(command.__name__, kwargs)
        _check_tunes(kwargs)
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted(what_is_kept(command.__name__, kwargs)) from None
        except (D90Error, RunFailed) as error:
            raise type(error)(as_options(str(error), command)) from error

    return run


def _check_tunes(given: Mapping[str, Any]) -> None:
    """Tell a tune that is missing or broken before torch is imported, which takes seconds.

    Raises:
        InputError: no such file, or no sound one.
    """
    for name in ("tune", "other"):
        path = given.get(name)
        if isinstance(path, Path) or (isinstance(path, str) and not Path(path).is_dir()):  # a folder is an adapter's
            from d90.subspace.header import about

            about(path)


def what_is_kept(command: str, given: Mapping[str, Any]) -> str:
    """What an interrupted command leaves behind, and how to go on, in a line."""
    if command == "run":
        return "interrupted; finished trials and studies are kept in the recipe's folder, and the same command goes on from them"
    if command == "report":
        return "interrupted; the store is as it was, and the same command begins anew"
    if command == "gap":
        kept = "finished trials are kept in their stores" if given.get("train") else "the stores are as they were"
        return f"interrupted; {kept}, and the same command goes on from them"
    if "store" in given and command != "export":
        return f"interrupted; finished trials are kept in '{given['store']}', and the same command goes on from them"
    state = Path(f"{given['out']}.checkpoint") if command == "train" and given.get("out") else None
    if state is not None and state.is_file():
        return f"interrupted; the run's state is kept in '{state}', and the same command goes on from there"
    if command == "pretrain":
        return f"interrupted; checkpoints written so far are in '{given.get('out')}', and the same command begins anew"
    return "interrupted; nothing was written, and the same command begins anew"
