"""Learning curves to an experiment tracker: TensorBoard, Weights & Biases, Trackio or MLflow, through accelerate's classes.

Every trial is a run of its own, named as in the terminal, in the project `d90`; logged are the training loss, and the score
and loss of each evaluation.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from d90.errors import InputError, unknown_name
from d90.joined import split_joined
from d90.options.base import Options, option
from d90.training.estimate import Estimate
from d90.training.progress import Progress

__all__ = ["TRACKERS", "Tracked", "TrackerOptions"]

TRACKERS = {  # the modules that do, the first of which is installed with pip
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
}


@dataclass(frozen=True, kw_only=True, repr=False)
class TrackerOptions(Options):
    """Which trackers get the learning curves.

    Attributes:
        report_to: names of `TRACKERS`, joined by commas; none by default.
        logs: the folder that TensorBoard's files go to.
    """

    report_to: str = option("", "tensorboard, wandb, trackio or mlflow, joined by commas: curves go there.")
    logs: str = option("runs/logs", "Where TensorBoard's files go.")

    @contextmanager
    def tracking(self, inner: Progress) -> Iterator[Progress]:
        """`inner`, with these trackers; closed at the end, whatever happens.

        Raises:
            InputError: as `Tracked`.
        """
        names = [name for name in split_joined(self.report_to) if name != "none"]
        if not names:
            yield inner
            return
        progress = Tracked(inner, names, self.logs)
        try:
            yield progress
        finally:
            progress.close()


class Tracked(Progress):
    """Passes every event on to `inner`, and the curves of each trial to trackers. Close it at the end.

    Args:
        inner: receives every event too.
        names: of `TRACKERS`.
        folder: where TensorBoard writes.
        project: the project's, or the experiment's, name.

    Raises:
        InputError: an unknown tracker, or one whose package is not installed.
    """

    def __init__(self, inner: Progress, names: Sequence[str], folder: str = "runs/logs", project: str = "d90") -> None:
        for name in names:
            _check(name)
        self._inner, self._names, self._folder, self._project = inner, tuple(names), folder, project
        self._open: dict[int, list[Any]] = {}  # of each trial under way
        self._at = 0

    def trial_started(self, label: str, steps: int) -> None:
        """Open a run in each tracker."""
        self._inner.trial_started(label, steps)
        self._finish(self._at)
        for name in self._names:
            tracker = _tracker(name, self._project, label, self._folder)
            self._open.setdefault(self._at, []).append(tracker)
            if name != "tensorboard":  # there it would be a run of its own for the table of settings
                tracker.store_init_configuration({"trial": label, "steps": steps})

    def trial_step(self, step: int, loss: float) -> None:
        """Log the training loss."""
        self._inner.trial_step(step, loss)
        self._log({"train/loss": loss}, step)

    def trial_scored(self, step: int, score: float, loss: float) -> None:
        """Log an evaluation."""
        self._inner.trial_scored(step, score, loss)
        self._log({"validation/score": score, "validation/loss": loss}, step)

    def trial_ended(self, label: str, message: str) -> None:
        """Close the trial's runs."""
        self._finish(self._at)
        self._inner.trial_ended(label, message)

    def trial_turned(self, number: int) -> None:
        """What follows is logged to this trial's runs."""
        self._at = number
        self._inner.trial_turned(number)

    def search_started(self, title: str) -> None:
        """Passed on."""
        self._inner.search_started(title)

    def search_expected(self, plan: Estimate) -> None:
        """Passed on."""
        self._inner.search_expected(plan)

    def search_planned(self, message: str) -> None:
        """Passed on."""
        self._inner.search_planned(message)

    def search_ended(self, message: str) -> None:
        """Passed on."""
        self._inner.search_ended(message)

    def note(self, message: str) -> None:
        """Passed on."""
        self._inner.note(message)

    def close(self) -> None:
        """Finish the runs that are open."""
        for number in list(self._open):
            self._finish(number)

    def _finish(self, number: int) -> None:
        for tracker in self._open.pop(number, []):
            tracker.finish()

    def _log(self, values: dict[str, float], step: int) -> None:
        for tracker in self._open.get(self._at, []):
            tracker.log(values, step=step)


def _check(name: str) -> None:
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    for package in ("accelerate", *TRACKERS[name]):
        found = importlib.util.find_spec(package) is not None
        if package == "accelerate" and not found:
            raise InputError(
                "--report-to needs the package 'accelerate', which is not installed: pip install accelerate"
            )
        if package != "accelerate" and found:
            return
    raise InputError(
        f"tracker '{name}' needs the package '{TRACKERS[name][0]}', which is not installed: pip install {TRACKERS[name][0]}"
    )


def _tracker(name: str, project: str, label: str, folder: str) -> Any:
    """A started tracker of accelerate's, for one trial."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the trackers ask it which process writes

    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        tracker = kind(os.path.join(project, _plain(label)), folder)
    elif name == "mlflow":
        tracker = kind(experiment_name=project, run_name=label)
    else:
        tracker = kind(project, name=label)
    if hasattr(tracker, "start"):  # older versions start when they are made
        tracker.start()
    return tracker


def _plain(label: str) -> str:
    """A label as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_.=@+" else "_" for letter in label)
