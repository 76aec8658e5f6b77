"""What the command line shows while it works: bars on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from d90.progress import Progress

__all__ = ["Lines", "Terminal", "console", "progress_for"]

console = Console(stderr=False, highlight=False, soft_wrap=True)


class Lines(Progress):
    """One plain line for each event, on standard error: for pipes and logs."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def _say(self, message: str) -> None:
        print(f"[{time.monotonic() - self._began:7.1f} s] {message}", file=sys.stderr, flush=True)

    def search_started(self, title: str) -> None:
        self._say(title)

    def search_planned(self, message: str) -> None:
        self._say(f"search: {message}")

    def search_ended(self, message: str) -> None:
        self._say(message)

    def trial_started(self, label: str, steps: int) -> None:
        self._say(f"{label}: {steps} steps")

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        self._say(f"  step {step}: score {score:.4f}, loss {loss:.4f}")

    def trial_ended(self, label: str, message: str) -> None:
        self._say(f"{label}: {message}")

    def note(self, message: str) -> None:
        self._say(f"note: {message}")


class Terminal(Progress):
    """One bar for the search and one for the trial; a line for each trial that ends."""

    def __init__(self) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._search: TaskID | None = None
        self._trial: TaskID | None = None
        self._score = ""

    def search_started(self, title: str) -> None:
        console.print(title)
        self._search = self._bars.add_task("search", total=None, state="")
        self._bars.start()

    def search_planned(self, message: str) -> None:
        if self._search is not None:
            self._bars.update(self._search, state=message)

    def search_ended(self, message: str) -> None:
        self._bars.stop()

    def trial_started(self, label: str, steps: int) -> None:
        self._bars.start()
        self._score = ""
        self._trial = self._bars.add_task(label, total=steps, state="")

    def trial_step(self, step: int, loss: float) -> None:
        if self._trial is not None:
            self._bars.update(self._trial, completed=step, state=f"loss {loss:.3f}{self._score}")

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        self._score = f"  score {score:.4f}"
        self.trial_step(step, loss)

    def trial_ended(self, label: str, message: str) -> None:
        if self._trial is not None:
            self._bars.remove_task(self._trial)
            self._trial = None
        console.print(f"  {label}: {message}")
        if self._search is None:
            self._bars.stop()

    def note(self, message: str) -> None:
        console.print(f"note: {message}")

    def close(self) -> None:
        """Take the bars off the screen, whatever happened."""
        self._bars.stop()


def progress_for(stream_is_terminal: bool) -> Progress:
    """Bars for a terminal, plain lines otherwise."""
    return Terminal() if stream_is_terminal else Lines()
