"""A study of a recipe is a call of the Python API: its options whole, its result kept, its page or file written where the recipe says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from d90.certificates.classification import certify
from d90.errors import InputError
from d90.files import write_text
from d90.joined import read_joined
from d90.options import AUTO
from d90.report.compare import write_comparisons
from d90.report.environment import write_page
from d90.report.measure import write_report
from d90.report.series import lowdata_page, series_page
from d90.report.weight_change import analysis_page
from d90.reproduce.plan import Study
from d90.reproduce.schema import split
from d90.results.latency import Latency
from d90.studies.compare import compare
from d90.studies.latency import latency, latency_question, usual_methods
from d90.studies.low_data import low_data
from d90.studies.measure import measure
from d90.studies.pretrain import losses, pretrain
from d90.studies.series import family, trajectory
from d90.studies.weight_change import analyze
from d90.training.loop import open_model, open_task, train_to_file
from d90.training.progress import Progress
from d90.training.record import TuneRecord, read_record
from d90.training.request import TrainingRequest
from d90.training.trackers import TrackerOptions
from d90.trials.options import CommandRunOptions, ExecutorOptions, RunOptions

__all__ = ["CALLS", "result_of"]

Given = SimpleNamespace  # what a command's function takes, single options put together to whole ones


def result_of(study: Study, progress: Progress, where: ExecutorOptions) -> Any:
    """Run a study and give its result; what is stored, or lies in its file, of the same question, is not made again.

    Args:
        where: options of the executor, in place of the study's own.
    """
    given = study.command.whole(study.arguments)
    return CALLS[study.command.name](given, Place(study, progress, where))


class Place:
    """Where a study runs and leaves what it writes.

    Args:
        where: options of the executor, in place of the study's own.
    """

    def __init__(self, study: Study, progress: Progress, where: ExecutorOptions) -> None:
        self.study, self.progress, self.where = study, progress, where

    @property
    def line(self) -> str:
        """The command line that does the same, kept with the result, so that its page says how to do it alone."""
        return shlex.join(["d90", *self.study.line])

    @contextmanager
    def opened(self, given: Given) -> Iterator[RunOptions]:
        """What the study is called with, its store open; the executor and the trackers that were asked for are there until the end."""
        run: CommandRunOptions = replace(given.run, **self.where.to_dict())
        trackers: TrackerOptions = getattr(given, "trackers", TrackerOptions())
        with trackers.tracking(self.progress) as progress, run.opened(progress, self.line) as opened:
            yield opened


def _measure(given: Given, place: Place) -> Any:
    with place.opened(given) as run:
        options = {name: getattr(given, name) for name in ("search", "training", "data")}
        result = measure(given.model, given.task, given.method, **options, run=run)
    write_report(run.open_store(), given.run.page_path(".html"))
    return result


def _compare(given: Given, place: Place) -> Any:
    with place.opened(given) as run:
        options = {name: getattr(given, name) for name in ("options", "training", "data")}
        result = compare(given.model, given.task, split("methods", given.methods), **options, run=run)
    write_comparisons(run.open_store(), given.run.page_path(".compare.html"))
    return result


def _series(study: Callable[..., Any]) -> Callable[[Given, Place], Any]:
    def call(given: Given, place: Place) -> Any:
        with place.opened(given) as run:
            options = {name: getattr(given, name) for name in ("options", "search", "training", "data")}
            result = study(given.models, split("tasks", given.tasks), given.method, **options, run=run)
        write_page(series_page(result), given.run.page_path(f".{result.kind}.html"))
        return result

    return call


def _low_data(given: Given, place: Place) -> Any:
    with place.opened(given) as run:
        options = {name: getattr(given, name) for name in ("options", "training", "data")}
        methods, counts = split("methods", given.methods), read_joined("counts", given.counts)
        result = low_data(given.model, given.task, methods, counts, **options, run=run)
    write_page(lowdata_page(result), given.run.page_path(".lowdata.html"))
    return result


def _latency(given: Given, place: Place) -> Latency:
    asked, options, out = given.methods, given.options, Path(given.out)
    ranks = read_joined("r", given.r)
    methods = split("methods", asked) if asked is not None else usual_methods(ranks, given.prefix)
    stored = _stored_latency(out)
    if stored is not None and stored.question == latency_question(given.model, methods, options):
        place.progress.note(f"{out} is there, of the same question; remove it to measure again")
        return stored
    result = latency(given.model, methods, options=options, progress=place.progress, command=place.line)
    result.save(out)
    return result


def _stored_latency(path: Path) -> Latency | None:
    try:
        return Latency.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _certify(given: Given, place: Place) -> Any:
    options = {name: getattr(given, name) for name in ("options", "training", "data", "store")}
    options |= {"method": given.method} if given.method else {}
    result = certify(given.model, given.task, progress=place.progress, command=place.line, **options)
    result.save(given.out)
    return result


def _train(given: Given, place: Place) -> TuneRecord:
    out = Path(given.out)
    if _trained(given):
        place.progress.note(f"{out} is there, of the same recipe")
    else:
        options = {name: getattr(given, name) for name in ("dtype", "checkpoint_minutes")}
        with given.trackers.tracking(place.progress) as progress:
            run = train_to_file(_request(given), out, progress=progress, **options)
        run.release()
    return read_record(out)


def _request(given: Given) -> TrainingRequest:
    return TrainingRequest(*(getattr(given, name) for name in ("model", "task", "method", "d", "training", "data")))


def _trained(given: Given) -> bool:
    """Whether the tune is there, of this very recipe, data and base."""
    out = Path(given.out)
    if not out.exists() or not out.with_suffix(".json").exists():
        return False
    asked = _request(given)
    task = open_task(given.task, asked.recipe)
    _, recipe, _ = asked.settled(task, given.model)
    model = open_model(given.model, task, recipe)
    try:
        record = read_record(out)
    except InputError:
        return False  # damaged: trained again
    if given.training.lr == AUTO:
        recipe = replace(recipe, lr=record.recipe.lr)
    same = record.recipe == recipe and record.task.fingerprint == task.fingerprint
    return same and record.base in (model.base, model.earlier)


def _analyze(given: Given, place: Place) -> Any:
    options = {"model": given.model, "targets": given.targets, "ranks": read_joined("ranks", given.ranks)}
    result = analyze(given.tune, given.other, **options, command=place.line)
    out = write_page(analysis_page(result), given.out)
    write_text(out.with_suffix(".json"), json.dumps(result.to_dict()) + "\n")
    return result


def _pretrain(given: Given, place: Place) -> list[tuple[int, float | None]]:
    pretrain(given.text, given.out, given.validation, options=given.options, progress=place.progress)
    return losses(given.out)


CALLS: dict[str, Callable[[Given, Place], Any]] = {
    "measure": _measure,
    "trajectory": _series(trajectory),
    "family": _series(family),
    "compare": _compare,
    "lowdata": _low_data,
    "latency": _latency,
    "certify": _certify,
    "analyze": _analyze,
    "train": _train,
    "pretrain": _pretrain,
}
