"""Where progress goes if a function was given none: bars in a terminal, lines in a notebook, nowhere where nobody looks."""

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

__all__ = ["ProgressOption", "in_notebook", "listener", "showing", "shows_progress"]

ProgressOption = (
    Progress | bool | None
)  # False: nowhere; None: what fits where the code runs; True: the same, and lines where it is piped
P = ParamSpec("P")
R = TypeVar("R")

_within: ContextVar[bool] = ContextVar("within", default=False)  # a call of d90's own shows nothing a second time


def in_notebook() -> bool:
    """Whether this code runs in a cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


def listener(progress: ProgressOption) -> Progress:
    """The `Progress` that was given; one that ignores every event where none was."""
    return progress if isinstance(progress, Progress) else Progress()


@contextmanager
def showing(progress: ProgressOption) -> Iterator[Progress]:
    """Where progress goes; what was drawn is taken off the screen at the end, whatever happened."""
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
