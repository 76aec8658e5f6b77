"""How long a search will take, estimated from its first steps on: an estimate that is there before the first trial has ended."""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = ["Estimate", "duration"]

STEPS = 20  # after so many steps of the first run the time of a step is known


@dataclass
class Estimate:
    """The plan of a search in optimizer steps, and the time of a step once it is known.

    Attributes:
        baseline, trial: steps of the baseline and of a trial.
        trials: how many trials are likely, at least and at most.
        rates: how many runs finding the rates takes, at least and at most; (0, 0) where they are given.
    """

    baseline: int
    trial: int
    trials: tuple[int, int]
    rates: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._began = self._run_began = time.monotonic()
        self._step: float | None = None
        self._seen = (0, 0.0)  # steps of this run, and the seconds until the last of them

    def run_started(self) -> None:
        """A run's first step comes next; what the last run took, its evaluations included, is the time of a step from now on."""
        steps, seconds = self._seen
        if self._step is not None and steps >= STEPS:
            self._step = seconds / steps
        self._run_began, self._seen = time.monotonic(), (0, 0.0)

    def stepped(self, step: int) -> str | None:
        """The plan in a line, once: when a run has made enough steps to know the time of one."""
        self._seen = (step, time.monotonic() - self._run_began)
        if self._step is not None or step < STEPS:
            return None
        self._step = self._seen[1] / step
        one, other = (duration(steps * self._step) for steps in (self.baseline, self.trial))
        low, high = (duration(self._total(end)) for end in (0, 1))
        rates = f"finding the rates {self.rates[0]} to {self.rates[1]} runs, " if self.rates[1] else ""
        return f"plan: {rates}baseline {one}, {self.trials[0]} to {self.trials[1]} trials of {other}; {low} to {high} in all"

    @property
    def left(self) -> str | None:
        """How long it still takes if all likely trials run to their ends, in words; None before the time of a step is known."""
        if self._step is None:
            return None
        return duration(max(self._total(1) - (time.monotonic() - self._began), self.trial * self._step))

    def _total(self, end: int) -> float:
        assert self._step is not None
        return self._step * (
            self.baseline * (1 + self.rates[end] / 2) + self.trial * (self.trials[end] + self.rates[end] / 2)
        )


def duration(seconds: float) -> str:
    """In words: 40 s, 4 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
