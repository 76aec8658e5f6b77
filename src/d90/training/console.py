"""What the command line shows while it works: bars on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from d90.errors import printable
from d90.training.estimate import Estimate
from d90.training.progress import Progress

__all__ = ["Lines", "Terminal", "close_bars", "console", "make_table", "print_table", "progress_for"]

# what files and names hold is text: neither markup nor emoji codes
console = Console(stderr=False, highlight=False, soft_wrap=True, markup=False, emoji=False)
_drawn: list[Bars] = []  # whatever ends the command, they are taken off


class PlainTable(Table):
    """A table whose title and cells are text: control characters are written out, brackets are no markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts."""
        super().add_row(*(Text(printable(cell)) for cell in cells), **options)


def make_table(title: str, caption: str | None = None) -> Table:
    """An empty table; see `PlainTable`."""
    return PlainTable(title=Text(printable(title)), caption=Text(caption) if caption else None)


def print_table(table: Table) -> None:
    """Print a table: as wide as the terminal; piped, as wide as it is."""
    if console.is_terminal:
        console.print(table)
        return
    wide = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    Console(highlight=False, markup=False, emoji=False, width=wide).print(table)


def close_bars() -> None:
    """Stop every bar that is drawn; the cursor comes back."""
    while _drawn:
        _stop(_drawn.pop())


def _stop(bars: Bars) -> None:
    if bars.live.is_started:  # rich ends even what was never drawn with an empty line
        bars.stop()


class Lines(Progress):
    """One plain line for each event, by default on standard error: for pipes and logs."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out  # standard error may be another when a line is said
        self._began = time.monotonic()
        self._labels: dict[int, str] = {}  # of trials under way
        self._at = 0
        self._plan: Estimate | None = None

    def _say(self, message: str) -> None:
        print(
            f"[{time.monotonic() - self._began:7.1f} s] {printable(message)}", file=self._out or sys.stderr, flush=True
        )

    def search_started(self, title: str) -> None:
        self._say(title)

    def search_expected(self, plan: Estimate) -> None:
        self._plan = plan

    def search_planned(self, message: str) -> None:
        left = self._plan.left if self._plan is not None else None
        self._say(f"search: {message}" + (f"; about {left} left" if left else ""))

    def search_ended(self, message: str) -> None:
        self._say("done")  # the command prints the answer

    def trial_turned(self, number: int) -> None:
        self._at = number

    def trial_started(self, label: str, steps: int) -> None:
        self._labels[self._at] = label
        self._say(f"{label}: {steps} steps")
        if self._plan is not None and not self._at:
            self._plan.run_started()

    def trial_step(self, step: int, loss: float) -> None:
        plan = self._plan.stepped(step) if self._plan is not None and not self._at else None
        if plan is not None:
            self._say(plan)

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        # where the loss is the metric, both are one number
        whose = f"{self._labels.get(self._at, '')}, " if self._at else "  "  # with several under way, whose it is
        self._say(f"{whose}step {step}: {'' if score == -loss else f'score {score:.4f}, '}loss {loss:.4f}")

    def trial_ended(self, label: str, message: str) -> None:
        self._say(f"{label}: {message}")

    def note(self, message: str) -> None:
        self._say(f"note: {message}")


class _Bars(Bars):
    """A line for the search, cut at the terminal's width, over a bar for each trial, which leaves the trial's name its room."""

    search: str | None = None
    began = 0.0

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.search is not None:
            passed = timedelta(seconds=int(time.monotonic() - self.began))
            yield Text(f"search {passed} {self.search}", no_wrap=True, overflow="ellipsis")
        yield from super().get_renderables()


class Terminal(Progress):
    """A line for the search and a bar for each trial under way; a line for each trial that ends."""

    def __init__(self) -> None:
        self._bars = _Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        _drawn.append(self._bars)
        self.trials: dict[int, TaskID] = {}  # those whose bars are drawn
        self._scores: dict[int, str] = {}
        self._at = 0
        self._plan: Estimate | None = None

    @property
    def drawn(self) -> bool:
        """Whether bars are on the terminal."""
        return self._bars.live.is_started

    def search_started(self, title: str) -> None:
        self._tell(title)
        self._bars.search, self._bars.began = "", time.monotonic()
        self._bars.start()

    def search_expected(self, plan: Estimate) -> None:
        self._plan = plan

    def search_planned(self, message: str) -> None:
        if self._bars.search is not None:
            left = self._plan.left if self._plan is not None else None
            self._bars.search = printable(message) + (f"; about {left} left" if left else "")

    def search_ended(self, message: str) -> None:
        if not self.trials:
            self._bars.stop()

    def trial_turned(self, number: int) -> None:
        self._at = number

    def trial_started(self, label: str, steps: int) -> None:
        self._bars.start()
        self._forget()  # it runs again
        self.trials[self._at] = self._bars.add_task(printable(label), total=steps, state="")
        if self._plan is not None and not self._at:
            self._plan.run_started()

    def trial_step(self, step: int, loss: float) -> None:
        plan = self._plan.stepped(step) if self._plan is not None and not self._at else None
        if plan is not None:
            self._tell(plan)
        if self._at in self.trials:
            state = f"loss {loss:.3f}{self._scores.get(self._at, '')}"
            self._bars.update(self.trials[self._at], completed=step, state=state)

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        self._scores[self._at] = f"  validation loss {loss:.4f}" if score == -loss else f"  score {score:.4f}"
        self.trial_step(step, loss)

    def trial_ended(self, label: str, message: str) -> None:
        self._forget()
        console.print(printable(f"  {label}: {message}"))
        if self._bars.search is None:
            self._bars.stop()

    def note(self, message: str) -> None:
        self._tell(f"note: {message}")

    def _tell(self, message: str) -> None:
        console.print(printable(message), soft_wrap=False)  # parted at words, as no terminal does

    def _forget(self) -> None:
        self._scores.pop(self._at, None)
        if self._at in self.trials:
            self._bars.remove_task(self.trials.pop(self._at))

    def close(self) -> None:
        """Take the bars off the screen, whatever happened."""
        _stop(self._bars)


def progress_for(stream_is_terminal: bool) -> Progress:
    """Bars for a terminal, plain lines otherwise."""
    return Terminal() if stream_is_terminal else Lines()
