"""Who is told where a function was given nobody: bars in a terminal, lines in a notebook, nobody where neither is there to look."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from d90.training.progress import Progress

__all__ = ["Told", "in_notebook", "listener", "showing", "shows_progress"]

Told = (
    Progress | bool | None
)  # False: nobody; None: what fits where the code runs; True: the same, and lines where it is piped
P = ParamSpec("P")
R = TypeVar("R")

_within: ContextVar[bool] = ContextVar(
    "within", default=False
)  # a call of d90's own that was given nobody tells nobody


def in_notebook() -> bool:
    """Whether this code runs in a cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def listener(progress: Told) -> Progress:
    """Who is told; nobody where none was named."""
    return progress if isinstance(progress, Progress) else Progress()


@contextmanager
def showing(progress: Told) -> Iterator[Progress]:
    """Who is told; what was drawn for it is taken off the screen at the end, whatever happened."""
    if isinstance(progress, Progress):
        yield progress
        return
    terminal = sys.stdout.isatty()
    if progress is False or _within.get() or not (progress or terminal or in_notebook()):
        yield Progress()
        return
    from d90.training.console import Lines, Terminal

    shown = Lines(sys.stdout) if in_notebook() else Terminal() if terminal else Lines()
    token = _within.set(True)
    try:
        yield shown
    finally:
        _within.reset(token)
        if isinstance(shown, Terminal):
            shown.close()


def shows_progress(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose `progress`, or that of its `run` options, is filled in as `showing` says."""
    signature = inspect.signature(function)

    @wraps(function)
    def run(*args: P.args, **given: P.kwargs) -> R:
        call: Any = signature.bind(*args, **given)
        call.apply_defaults()
        options = call.arguments.get("run")
        with showing(call.arguments["progress"] if options is None else options.progress) as progress:
            if options is None:
                call.arguments["progress"] = progress
            else:
                call.arguments["run"] = replace(options, progress=progress)
            return function(*call.args, **call.kwargs)

    return run
