"""In the worker: does a job, tells what happens, and ends with its driver.

A local worker reads its job from standard input, a line of JSON, and holds it open: when it closes, the driver is gone, however it
went, and the worker ends at once. What happens goes to standard output, a line of JSON each; what libraries print goes to
standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from typing import Any

from d90 import errors
from d90.errors import D90Error, RunFailed
from d90.files import Json
from d90.training.progress import Progress

__all__ = ["main", "outcome_of", "result_of"]


def outcome_of(work: str, body: Json, progress: Progress) -> list[Any]:
    """["result", what the function returned], or ["error", the name of the class, the message]."""
    module, _, name = work.partition(":")
    try:
        return ["result", getattr(importlib.import_module(module), name)(body, progress)]
    except (D90Error, RunFailed) as error:
        return ["error", type(error).__name__, str(error)]
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        return [
            "error",
            "RunFailed",
            f"a trial failed in its worker: {what}. Run it without --jobs and --on to see where",
        ]


def result_of(outcome: list[Any]) -> Json:
    """The result in what `outcome_of` returned.

    Raises:
        D90Error, RunFailed: the error in it, of its own class.
    """
    if outcome[0] == "result":
        found: Json = outcome[1]
        return found
    raise getattr(errors, outcome[1], RunFailed)(outcome[2])


class JsonProgress(Progress):
    """Writes every event as a JSON line."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines

    def send(self, name: str, *what: Any) -> None:
        """One line, sent at once."""
        self._lines.write(json.dumps([name, *what]) + "\n")
        self._lines.flush()

    def trial_started(self, label: str, steps: int) -> None:
        """Sent."""
        self.send("trial_started", label, steps)

    def trial_step(self, step: int, loss: float) -> None:
        """Sent."""
        self.send("trial_step", step, loss)

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        """Sent."""
        self.send("trial_scored", step, score, loss)

    def note(self, message: str) -> None:
        """Sent."""
        self.send("note", message)


def main() -> None:
    """A local worker, from its first line to its last."""
    progress = JsonProgress(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    threading.Thread(target=_end_with_driver, daemon=True).start()
    work, body = json.loads(line)
    progress.send(*outcome_of(work, body, progress))


def _end_with_driver() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
